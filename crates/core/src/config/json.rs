//! Typed access to JSON objects, with errors that name file and key.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::files::{LARGEST_JSON, read_limited};
use crate::{Error, Result};

/// No model comes near sizes of this, and the number of elements of a tensor cannot overflow.
pub(crate) const LARGEST: usize = 1 << 20;

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Reads a JSON file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read or is larger than 64 MiB, [`Error::Corrupt`] when it is not JSON.
pub(crate) fn read(file: &Path) -> Result<Value> {
    parse(file, &read_limited(file, LARGEST_JSON)?)
}

/// The value of a JSON file that holds `bytes`.
///
/// # Errors
/// [`Error::Corrupt`] when it is not JSON.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Corrupt { file: file.to_owned(), reason: format!("is not JSON: {error}") })
}

/// An object of a JSON file and where in the file it is.
///
/// The typed getters yield `None` for an absent key and an [`Error::Config`] for a value of another type,
/// null included.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    file: &'a Path,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The outermost object of `file`.
    pub(crate) fn root(file: &'a Path, value: &'a Value) -> Result<Self> {
        Self::new(file, String::new(), value)
    }

    fn new(file: &'a Path, path: String, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { file, path, map }),
            other => {
                let key = if path.is_empty() { "the file".to_owned() } else { path };
                Err(Error::Config { file: file.to_owned(), key, reason: mismatch(other, "an object") })
            }
        }
    }

    /// The file this object is in.
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// An error about one key of this object.
    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.to_owned(), key: self.path_of(key), reason: reason.into() }
    }

    /// Whether the key is there and not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Keys in file order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// A nested object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        self.map.get(key).map(|value| Self::new(self.file, self.path_of(key), value)).transpose()
    }

    /// A nested object, or one without keys where it is absent.
    pub(crate) fn object_or_empty(&self, key: &str) -> Result<Object<'a>> {
        let empty = || Self { file: self.file, path: self.path_of(key), map: &EMPTY };
        Ok(self.object(key)?.unwrap_or_else(empty))
    }

    /// The objects of an array.
    pub(crate) fn objects(&self, key: &str) -> Result<Option<Vec<Object<'a>>>> {
        let Some(array) = self.typed(key, "an array", Value::as_array)? else { return Ok(None) };
        let element = |(index, value)| Self::new(self.file, self.path_of(&format!("{key}[{index}]")), value);
        array.iter().enumerate().map(element).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "a whole number", Value::as_i64)
    }

    /// A whole number of at least zero.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number of at least 0", to_usize)
    }

    /// A whole number of at least one.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number of at least 1", |value| to_usize(value).filter(|size| *size > 0))
    }

    /// A number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let positive = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        self.typed(key, "a number above 0", positive)
    }

    /// Whole numbers of at least one.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.typed(key, "an array of whole numbers of at least 1", |value| {
            value.as_array()?.iter().map(|size| to_usize(size).filter(|size| *size > 0)).collect()
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, "an array of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.error(key, mismatch(value, expected)))
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn to_usize(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|size| *size <= LARGEST)
}

fn mismatch(value: &Value, expected: &str) -> String {
    const LONGEST: usize = 60;
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    format!("is {text}; expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_object_names_dotted_path() {
        let value = json!({ "text_config": { "hidden_size": "wide" } });
        let root = Object::root(Path::new("config.json"), &value).unwrap();
        let text = root.object("text_config").unwrap().unwrap();
        let error = text.size("hidden_size").unwrap_err().to_string();
        assert_eq!(
            error,
            "config.json: text_config.hidden_size: is \"wide\"; expected a whole number of at least 1"
        );
    }

    #[test]
    fn getters_tell_absent_from_wrong() {
        let value = json!({ "a": null, "b": 2.5, "c": -1, "d": [1, 0] });
        let object = Object::root(Path::new("f"), &value).unwrap();
        assert!(object.integer("absent").unwrap().is_none());
        assert!(object.integer("a").is_err() && !object.has("a"));
        assert!(object.integer("b").is_err());
        assert_eq!(object.positive("b").unwrap(), Some(2.5));
        assert!(object.count("c").is_err() && object.positive("c").is_err());
        assert!(object.sizes("d").is_err());
    }

    #[test]
    fn root_refuses_other_than_object() {
        let value = json!([1]);
        assert!(Object::root(Path::new("f"), &value).unwrap_err().to_string().contains("expected an object"));
    }
}
