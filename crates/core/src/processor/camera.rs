//! Renaming of cameras to the names a policy was trained with.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Which of the policy's cameras each of the user's camera names stands for.
///
/// Names that are not in the map are taken as they are, as LeRobot's `rename_map` does.
///
/// ```
/// use smolvla_core::processor::CameraMap;
///
/// let cameras = ["observation.images.camera1", "observation.images.camera2"];
/// let map = CameraMap::parse(["top=observation.images.camera1"])?;
/// assert_eq!(map.resolve("top", &cameras)?, "observation.images.camera1");
/// assert_eq!(map.resolve("observation.images.camera2", &cameras)?, "observation.images.camera2");
/// assert!(map.resolve("side", &cameras).is_err());
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CameraMap {
    renames: BTreeMap<String, String>,
}

impl CameraMap {
    /// A map from `name=observation.images.…` entries, as the command line takes them.
    ///
    /// # Errors
    /// [`Error::Input`] when an entry has no `=`, an empty side, or a name that was given before.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut map = Self::default();
        for entry in entries {
            let entry = entry.as_ref();
            let (from, to) = match entry.split_once('=') {
                Some((from, to)) if !from.trim().is_empty() && !to.trim().is_empty() => {
                    (from.trim(), to.trim())
                }
                _ => {
                    return Err(Error::input(
                        "camera",
                        format!("`{entry}`; expected NAME=FEATURE, such as top=observation.images.camera1"),
                    ));
                }
            };
            if map.renames.insert(from.to_owned(), to.to_owned()).is_some() {
                return Err(Error::input("camera", format!("`{from}` is mapped twice")));
            }
        }
        Ok(map)
    }

    /// A map from a checkpoint's `rename_map` (old key to new key).
    pub fn from_rename_map<K: Into<String>, V: Into<String>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self { renames: entries.into_iter().map(|(from, to)| (from.into(), to.into())).collect() }
    }

    /// This map, with the entries of `other` taking precedence.
    pub fn overridden_by(mut self, other: Self) -> Self {
        self.renames.extend(other.renames);
        self
    }

    /// The policy's name for camera `name`, which must be one of `cameras`.
    ///
    /// A bare `camera1` also finds `observation.images.camera1` and, as older checkpoints call it,
    /// `observation.camera1`; the exact name comes first.
    ///
    /// # Errors
    /// [`Error::Input`] naming the policy's cameras when it has no such one.
    pub fn resolve<'a, S: AsRef<str>>(&self, name: &str, cameras: &'a [S]) -> Result<&'a str> {
        let spellings = |name: &str| {
            [name.to_owned(), format!("observation.images.{name}"), format!("observation.{name}")]
        };
        let target = spellings(name).iter().find_map(|name| self.renames.get(name));
        let wanted = target.map_or(name, String::as_str);
        let known = |name: &String| cameras.iter().map(AsRef::as_ref).find(|camera| camera == name);
        spellings(wanted).iter().find_map(known).ok_or_else(|| {
            let list: Vec<_> = cameras.iter().map(AsRef::as_ref).collect();
            let what = match target {
                Some(target) => {
                    format!("`{name}` is mapped to `{target}`, which this policy does not have")
                }
                None => format!("this policy has no camera `{name}`"),
            };
            Error::input(
                "camera",
                format!("{what}; its cameras are {}; rename one with a camera map", list.join(", ")),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERAS: [&str; 2] = ["observation.images.camera1", "observation.images.camera2"];

    #[test]
    fn unknown_target_lists_the_cameras_of_the_policy() {
        let map = CameraMap::parse(["top=observation.images.camera9"]).unwrap();
        let message = map.resolve("top", &CAMERAS).unwrap_err().to_string();
        assert!(message.contains("`observation.images.camera9`"), "{message}");
        assert!(message.contains("observation.images.camera1, observation.images.camera2"), "{message}");
    }

    #[test]
    fn bare_name_finds_the_full_feature() {
        let map = CameraMap::parse(["wrist=camera2"]).unwrap();
        assert_eq!(map.resolve("camera1", &CAMERAS).unwrap(), CAMERAS[0]);
        assert_eq!(map.resolve("wrist", &CAMERAS).unwrap(), CAMERAS[1]);
    }

    #[test]
    fn bare_name_finds_the_features_of_older_checkpoints() {
        let cameras = ["observation.image", "observation.image2", "observation.images.image2"];
        let map = CameraMap::from_rename_map([("observation.top", "observation.image")]);
        assert_eq!(map.resolve("image", &cameras).unwrap(), "observation.image");
        assert_eq!(map.resolve("image2", &cameras).unwrap(), "observation.images.image2");
        assert_eq!(map.resolve("image2", &cameras[..2]).unwrap(), "observation.image2");
        assert_eq!(map.resolve("top", &cameras).unwrap(), "observation.image");
    }

    #[test]
    fn users_entries_override_the_checkpoints() {
        let checkpoint = CameraMap::from_rename_map([("observation.images.top", CAMERAS[0])]);
        assert_eq!(checkpoint.resolve("top", &CAMERAS).unwrap(), CAMERAS[0]);
        let user = CameraMap::parse(["observation.images.top=camera2"]).unwrap();
        let both = checkpoint.overridden_by(user);
        assert_eq!(both.resolve("observation.images.top", &CAMERAS).unwrap(), CAMERAS[1]);
    }

    #[test]
    fn malformed_entries_are_refused() {
        for entry in ["top", "=camera1", "top=", " = "] {
            let message = CameraMap::parse([entry]).unwrap_err().to_string();
            assert!(message.contains("NAME=FEATURE"), "{message}");
        }
        let message = CameraMap::parse(["a=camera1", "a=camera2"]).unwrap_err().to_string();
        assert!(message.contains("twice"), "{message}");
    }
}
