//! Where the vision-language model's configuration and tokenizer are.

use std::path::{Path, PathBuf};

use super::processors::Processors;
use super::{CONFIG, LoadOptions};
use crate::config::{PolicyConfig, SMOLVLM2_500M, VlmConfig};
use crate::{Error, Result};

const TOKENIZER: &str = "tokenizer.json";

/// The configuration of the vision-language model: of the folder in the options, of the folder the checkpoint
/// names, or the published one by its name.
pub(super) fn vlm_config(folder: &Path, config: &PolicyConfig, options: &LoadOptions) -> Result<VlmConfig> {
    if let Some(vlm) = &options.vlm {
        let file = vlm.join(CONFIG);
        // A folder with nothing but the tokenizer of the published model is enough.
        if config.vlm_model_name == SMOLVLM2_500M && vlm.is_dir() && !file.exists() {
            return Ok(VlmConfig::smolvlm2_500m());
        }
        return VlmConfig::from_file(&file);
    }
    let name = config.vlm_model_name.as_str();
    if let Some(found) = named_folder(folder, name, CONFIG) {
        return VlmConfig::from_file(&found.join(CONFIG));
    }
    if name == SMOLVLM2_500M {
        return Ok(VlmConfig::smolvlm2_500m());
    }
    Err(Error::Config {
        file: folder.join(CONFIG),
        key: "vlm_model_name".to_owned(),
        reason: format!(
            "is \"{name}\": no folder with a {CONFIG} of that name, neither in the checkpoint nor from the current \
             folder; give one with --vlm FOLDER"
        ),
    })
}

/// The `tokenizer.json`: of the options, of the folder the preprocessor or the configuration names, or of the
/// checkpoint itself.
pub(super) fn tokenizer(
    folder: &Path,
    config: &PolicyConfig,
    processors: &Processors,
    options: &LoadOptions,
) -> Result<Option<PathBuf>> {
    if let Some(path) = &options.tokenizer {
        let file = tokenizer_file(path);
        return if file.is_file() {
            Ok(Some(file))
        } else {
            Err(Error::Tokenizer { file, reason: "not found; expected a tokenizer.json".to_owned() })
        };
    }
    let named = [&processors.tokenizer_name, &config.vlm_model_name];
    let found = options
        .vlm
        .iter()
        .map(|vlm| vlm.join(TOKENIZER))
        .chain(named.iter().filter_map(|name| Some(named_folder(folder, name, TOKENIZER)?.join(TOKENIZER))))
        .chain([folder.join("tokenizer").join(TOKENIZER), folder.join(TOKENIZER)])
        .find(|file| file.is_file());
    Ok(found)
}

/// What to say about a tokenizer that is not of the place that the preprocessor names, where that differs from
/// the vision-language model's.
pub(super) fn tokenizer_notice(
    folder: &Path,
    config: &PolicyConfig,
    processors: &Processors,
    options: &LoadOptions,
    tokenizer: Option<&Path>,
) -> Option<String> {
    let (named, vlm) = (&processors.tokenizer_name, &config.vlm_model_name);
    let tokenizer = tokenizer?;
    let is_named =
        named_folder(folder, named, TOKENIZER).is_some_and(|found| tokenizer == found.join(TOKENIZER));
    // Who gives a tokenizer knows which.
    (named != vlm && !is_named && options.tokenizer.is_none()).then(|| {
        format!(
            "the tokenizer is {}: the preprocessor names that of {named}, which is not at hand, and config.json \
             the model {vlm}",
            tokenizer.display()
        )
    })
}

/// `path` itself, or the `tokenizer.json` in it.
pub(super) fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER) } else { path.to_owned() }
}

/// The folder called `name`, in the checkpoint or else from the current folder, that holds `file`.
fn named_folder(checkpoint: &Path, name: &str, file: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    [checkpoint.join(name), PathBuf::from(name)].into_iter().find(|folder| folder.join(file).is_file())
}
