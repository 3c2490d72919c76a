//! Instructions to token ids.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationDirection};

use crate::config::files::{LARGEST_TOKENIZER, read_limited};
use crate::config::{LanguagePadding, json};
use crate::{Error, Result};

/// The padding token of the published vision-language model's tokenizer, which truncates on the left.
const SMOLVLM2_PADDING: &str = "<|im_end|>";

const SUPPLY: &str = "supply the tokenizer.json (and tokenizer_config.json) of the policy's vision-language \
                      model, for the published policies that of HuggingFaceTB/SmolVLM2-500M-Video-Instruct";

/// The tokenizer of a vision-language model, from its `tokenizer.json`.
///
/// ```no_run
/// use smolvla_core::config::LanguagePadding;
/// use smolvla_core::processor::Tokenizer;
///
/// let tokenizer = Tokenizer::from_file("vlm/tokenizer.json")?;
/// let settings = tokenizer.settings(48, LanguagePadding::MaxLength)?;
/// let tokens = tokenizer.encode_batch(&["pick up the cube"], &settings)?;
/// assert_eq!(tokens.length, 48);
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    file: PathBuf,
    inner: tokenizers::Tokenizer,
    pad_id: Option<u32>,
    truncation_left: bool,
    notice: Option<String>,
}

/// How instructions become rows of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSettings {
    /// Most tokens of an instruction; what is over is left out.
    pub max_length: usize,
    /// Whether rows are padded to `max_length` or to the longest.
    pub padding: LanguagePadding,
    /// The token rows are padded with, at the right.
    pub pad_id: u32,
    /// Whether an over-long instruction loses its beginning rather than its end.
    pub truncation_left: bool,
}

/// Tokenized instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids, `[batch, length]`.
    pub ids: Vec<u32>,
    /// Which of them are tokens and not padding, `[batch, length]`.
    pub mask: Vec<bool>,
    /// Tokens of a row, padding included.
    pub length: usize,
    /// What was left out of over-long instructions, for the user to read.
    pub notice: Option<String>,
}

impl TokenBatch {
    /// The largest id, padding included; it must have a row in the embedding table.
    pub fn max_id(&self) -> Option<u32> {
        self.ids.iter().copied().max()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` (`path`, or in the folder `path`) and, beside it, the optional
    /// `tokenizer_config.json` for the padding token and the side that truncation cuts.
    ///
    /// Without the second file, what `tokenizer.json` does not say itself is as SmolVLM2 has it: rows are padded
    /// with `<|im_end|>`, where the vocabulary has it, and truncation cuts the left side. See
    /// [`Tokenizer::notice`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the file is absent or not a tokenizer, or its padding token is not in the
    /// vocabulary; [`Error::Io`] and [`Error::Config`] when the second file cannot be read or understood.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let refuse = |reason| Error::Tokenizer { file: file.clone(), reason };
        let bytes = read_limited(&file, LARGEST_TOKENIZER).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                refuse(format!("not found; {SUPPLY}"))
            }
            Error::Io { source, .. } => refuse(format!("cannot be read: {source}")),
            other => other,
        })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| refuse(format!("is not a tokenizer ({error}); {SUPPLY}")))?;

        let found = Config::beside(&file)?;
        let notice = found.is_none().then(|| {
            format!(
                "no tokenizer_config.json beside {}: what it does not say itself is as SmolVLM2's, padding with \
                 {SMOLVLM2_PADDING} and truncation on the left",
                file.display()
            )
        });
        let config = found.unwrap_or_default();
        let side = config.truncation_side.or_else(|| inner.get_truncation().map(|t| t.direction));
        let pad_token = config.pad_token.or_else(|| inner.get_padding().map(|p| p.pad_token.clone()));
        let pad_id = match pad_token {
            Some(token) => Some(inner.token_to_id(&token).ok_or_else(|| {
                refuse(format!("its padding token `{token}` is not in its vocabulary; {SUPPLY}"))
            })?),
            None if notice.is_some() => inner.token_to_id(SMOLVLM2_PADDING),
            None => None,
        };
        // Both are done here, where the settings of the policy are known.
        inner.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        inner.with_padding(None);
        let truncation_left = match side {
            Some(side) => matches!(side, TruncationDirection::Left),
            None => notice.is_some(),
        };
        Ok(Self { file, inner, pad_id, truncation_left, notice })
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What a user should know about it: that its `tokenizer_config.json` is absent, and what applies instead.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// The id of a token of the vocabulary, such as `<fake_token_around_image>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id in the vocabulary, added tokens included.
    pub fn max_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// The settings for a policy that takes `max_length` tokens and pads by `padding`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer names no padding token.
    pub fn settings(&self, max_length: usize, padding: LanguagePadding) -> Result<TextSettings> {
        let pad_id = self.pad_id.ok_or_else(|| Error::Tokenizer {
            file: self.file.clone(),
            reason: "names no padding token; put the vision-language model's tokenizer_config.json beside it"
                .to_owned(),
        })?;
        Ok(TextSettings { max_length, padding, pad_id, truncation_left: self.truncation_left })
    }

    /// Tokenizes one instruction per observation, each ended by a newline as in training.
    ///
    /// Special tokens are added only where the tokenizer's own post-processor does so.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no instruction, one is blank or makes no tokens, or `max_length` leaves
    /// no room; [`Error::Tokenizer`] when the tokenizer itself fails.
    pub fn encode_batch(&self, tasks: &[&str], settings: &TextSettings) -> Result<TokenBatch> {
        if tasks.is_empty() {
            return Err(Error::input("task", "no instruction; expected one per observation"));
        }
        let mut rows = Vec::with_capacity(tasks.len());
        let mut notices = Vec::new();
        for task in tasks {
            let (ids, dropped) = self.encode(task, settings)?;
            if dropped > 0 {
                let end = if settings.truncation_left { "first" } else { "last" };
                notices.push(format!(
                    "the {end} {dropped} tokens of the task \"{}\" are left out: the policy takes {} tokens",
                    excerpt(task),
                    settings.max_length,
                ));
            }
            rows.push(ids);
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let length = match settings.padding {
            LanguagePadding::Longest => longest,
            LanguagePadding::MaxLength => settings.max_length,
        };
        let mut ids = Vec::with_capacity(rows.len() * length);
        let mut mask = Vec::with_capacity(rows.len() * length);
        for row in &rows {
            let padding = length - row.len();
            ids.extend_from_slice(row);
            ids.extend(std::iter::repeat_n(settings.pad_id, padding));
            mask.extend(std::iter::repeat_n(true, row.len()));
            mask.extend(std::iter::repeat_n(false, padding));
        }
        let notice = (!notices.is_empty()).then(|| notices.join("; "));
        Ok(TokenBatch { ids, mask, length, notice })
    }

    /// The ids of one instruction, at most `max_length`, and how many tokens were cut off.
    fn encode(&self, task: &str, settings: &TextSettings) -> Result<(Vec<u32>, usize)> {
        if task.trim().is_empty() {
            return Err(Error::input(
                "task",
                "is empty; expected an instruction such as \"pick up the cube\"",
            ));
        }
        let added = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        let Some(room) = settings.max_length.checked_sub(added).filter(|&room| room > 0) else {
            return Err(Error::input(
                "task",
                format!(
                    "tokenizer_max_length is {}, which leaves no room for an instruction",
                    settings.max_length
                ),
            ));
        };
        let fail = |error: tokenizers::Error| Error::Tokenizer {
            file: self.file.clone(),
            reason: format!("cannot tokenize \"{}\": {error}", excerpt(task)),
        };
        let line = if task.ends_with('\n') { task.to_owned() } else { format!("{task}\n") };
        let mut encoding = self.inner.encode(line, false).map_err(fail)?;
        let tokens = encoding.len();
        if tokens == 0 {
            return Err(Error::input(
                "task",
                format!("the tokenizer makes no tokens of \"{}\"", excerpt(task)),
            ));
        }
        let side =
            if settings.truncation_left { TruncationDirection::Left } else { TruncationDirection::Right };
        encoding.truncate(room, 0, side);
        let encoding = self.inner.post_process(encoding, None, true).map_err(fail)?;
        Ok((encoding.get_ids().to_vec(), tokens.saturating_sub(room)))
    }
}

/// What matters here of `tokenizer_config.json`.
#[derive(Default)]
struct Config {
    truncation_side: Option<TruncationDirection>,
    pad_token: Option<String>,
}

impl Config {
    /// `None` where there is no such file.
    fn beside(tokenizer: &Path) -> Result<Option<Self>> {
        let file = tokenizer.with_file_name("tokenizer_config.json");
        let json = match json::read(&file) {
            Ok(json) => json,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let refuse =
            |key: &str, reason: String| Error::Config { file: file.clone(), key: key.into(), reason };
        let truncation_side = match json.get("truncation_side") {
            None | Some(Value::Null) => None,
            Some(side) => match side.as_str() {
                Some("left") => Some(TruncationDirection::Left),
                Some("right") => Some(TruncationDirection::Right),
                _ => {
                    return Err(refuse("truncation_side", format!("{side}; expected \"left\" or \"right\"")));
                }
            },
        };
        let pad_token = match json.get("pad_token") {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => Some(token.clone()),
            Some(token) => match token.get("content").and_then(Value::as_str) {
                Some(content) => Some(content.to_owned()),
                None => return Err(refuse("pad_token", format!("{token}; expected a token's text"))),
            },
        };
        Ok(Some(Self { truncation_side, pad_token }))
    }
}

/// The beginning of an instruction, for messages.
fn excerpt(task: &str) -> String {
    const LENGTH: usize = 40;
    match task.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", task[..end].trim_end()),
        None => task.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// One token a byte of ASCII text, in the byte-level alphabet, and three special tokens.
    fn write_tokenizer(config: Option<&str>) -> TempDir {
        write_tokenizer_with(config, Value::Null)
    }

    fn write_tokenizer_with(config: Option<&str>, post_processor: Value) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut vocabulary = serde_json::Map::new();
        let special = ["<|endoftext|>", "<|im_end|>", "<image>"];
        let letters = ('!'..='~').chain(['Ġ', 'Ċ']).map(String::from);
        for (id, token) in special.into_iter().map(String::from).chain(letters).enumerate() {
            vocabulary.insert(token, id.into());
        }
        let added: Vec<_> = special
            .iter()
            .enumerate()
            .map(|(id, content)| {
                serde_json::json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true
                })
            })
            .collect();
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": post_processor,
            "decoder": null,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] }
        });
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        if let Some(config) = config {
            fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        }
        folder
    }

    const CONFIG: &str = r#"{"truncation_side": "left", "pad_token": "<|im_end|>"}"#;

    fn letters(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        text.chars().map(|c| tokenizer.token_id(&c.to_string()).unwrap()).collect()
    }

    #[test]
    fn instruction_ends_with_one_newline_and_is_padded() {
        let folder = write_tokenizer(Some(CONFIG));
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        let settings = tokenizer.settings(6, LanguagePadding::MaxLength).unwrap();
        let batch = tokenizer.encode_batch(&["go", "stop\n"], &settings).unwrap();
        let expected =
            [letters(&tokenizer, "goĊ"), vec![1; 3], letters(&tokenizer, "stopĊ"), vec![1]].concat();
        assert_eq!(batch.ids, expected);
        assert_eq!(
            batch.mask,
            [[true, true, true, false, false, false], [true, true, true, true, true, false]].concat()
        );
        assert_eq!((batch.length, batch.notice), (6, None));
    }

    #[test]
    fn longest_padding_follows_the_longest_instruction() {
        let folder = write_tokenizer(Some(CONFIG));
        let tokenizer = Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        let settings = tokenizer.settings(48, LanguagePadding::Longest).unwrap();
        let batch = tokenizer.encode_batch(&["a", "abc"], &settings).unwrap();
        assert_eq!(batch.length, 4);
        assert_eq!(batch.mask, [true, true, false, false, true, true, true, true]);
        assert_eq!(batch.max_id(), tokenizer.token_id("Ċ"));
    }

    #[test]
    fn over_long_instruction_is_cut_on_the_tokenizers_side_and_reported() {
        let folder = write_tokenizer(Some(CONFIG));
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        let settings = tokenizer.settings(4, LanguagePadding::Longest).unwrap();
        let batch = tokenizer.encode_batch(&["abcdef"], &settings).unwrap();
        assert_eq!(batch.ids, letters(&tokenizer, "defĊ"));
        let notice = batch.notice.unwrap();
        assert!(notice.starts_with("the first 3 tokens of the task \"abcdef\" are left out"), "{notice}");

        let right = TextSettings { truncation_left: false, ..settings };
        let batch = tokenizer.encode_batch(&["abcdef"], &right).unwrap();
        assert_eq!(batch.ids, letters(&tokenizer, "abcd"));
        assert!(batch.notice.unwrap().starts_with("the last 3 tokens"));
    }

    #[test]
    fn truncation_leaves_room_for_the_post_processors_tokens() {
        let template = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
        });
        let folder = write_tokenizer_with(Some(CONFIG), template);
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        let settings = tokenizer.settings(4, LanguagePadding::MaxLength).unwrap();
        let batch = tokenizer.encode_batch(&["a", "abcdef"], &settings).unwrap();
        let expected = [vec![0], letters(&tokenizer, "aĊ"), vec![1, 0], letters(&tokenizer, "efĊ")].concat();
        assert_eq!(batch.ids, expected);
        let cramped = TextSettings { max_length: 1, ..settings };
        assert!(tokenizer.encode_batch(&["a"], &cramped).is_err());
    }

    #[test]
    fn blank_instruction_is_refused() {
        let folder = write_tokenizer(Some(CONFIG));
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        let settings = tokenizer.settings(48, LanguagePadding::Longest).unwrap();
        for tasks in [&["pick", " \n\t"][..], &[""], &[]] {
            let error = tokenizer.encode_batch(tasks, &settings).unwrap_err();
            assert!(matches!(&error, Error::Input { field, .. } if field == "task"), "{error}");
        }
        let none = TextSettings { max_length: 0, ..settings };
        assert!(tokenizer.encode_batch(&["pick"], &none).is_err());
    }

    #[test]
    fn special_token_is_looked_up() {
        let folder = write_tokenizer(None);
        let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
        assert_eq!(tokenizer.token_id("<image>"), Some(2));
        assert_eq!(tokenizer.token_id("<fake_token_around_image>"), None);
        assert_eq!(tokenizer.max_id(), Some(98));
    }

    #[test]
    fn lone_tokenizer_pads_and_truncates_as_the_published_one_with_a_notice() {
        let folder = write_tokenizer(None);
        let alone = Tokenizer::from_file(folder.path()).unwrap();
        let settings = alone.settings(4, LanguagePadding::MaxLength).unwrap();
        assert_eq!((settings.pad_id, settings.truncation_left), (1, true));
        let notice = alone.notice().unwrap();
        assert!(
            notice.contains("no tokenizer_config.json beside") && notice.contains("<|im_end|>"),
            "{notice}"
        );

        let folder = write_tokenizer(Some(CONFIG));
        assert_eq!(Tokenizer::from_file(folder.path()).unwrap().notice(), None);
    }

    #[test]
    fn unusable_tokenizers_say_what_to_supply() {
        let empty = tempfile::tempdir().unwrap();
        let message = Tokenizer::from_file(empty.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: not found; supply"), "{message}");
        fs::write(empty.path().join("tokenizer.json"), "{}").unwrap();
        let message = Tokenizer::from_file(empty.path()).unwrap_err().to_string();
        assert!(message.contains("is not a tokenizer"), "{message}");

        let unpadded = write_tokenizer(Some("{}"));
        let tokenizer = Tokenizer::from_file(unpadded.path()).unwrap();
        let message = tokenizer.settings(48, LanguagePadding::Longest).unwrap_err().to_string();
        assert!(message.contains("names no padding token"), "{message}");

        for (config, expected) in [
            (r#"{"pad_token": "<pad>"}"#, "`<pad>` is not in its vocabulary"),
            (r#"{"pad_token": 3}"#, "tokenizer_config.json: pad_token: 3; expected a token's text"),
            (r#"{"truncation_side": "up"}"#, "truncation_side: \"up\"; expected \"left\" or \"right\""),
            ("{", "tokenizer_config.json: is not JSON"),
        ] {
            let folder = write_tokenizer(Some(config));
            let message = Tokenizer::from_file(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
