//! From the name of a checkpoint to a policy.

use std::path::{Path, PathBuf};

use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
#[cfg(feature = "hub")]
use smolvla_core::hub::{self, HubOptions};
use smolvla_core::policy::{Policy, PolicyOptions};
use smolvla_core::{Error, Result};

use crate::Device;

/// What the address of a repository's page on the Hub begins with.
const HUB_PAGE: &str = "https://huggingface.co/";

/// Where a checkpoint is.
///
/// ```
/// use smolvla::CheckpointSource;
///
/// assert_eq!(CheckpointSource::parse("./my_policy"), CheckpointSource::Folder("./my_policy".into()));
/// let hub = CheckpointSource::parse("lerobot/smolvla_base@main");
/// assert!(matches!(hub, CheckpointSource::Hub { revision: Some(revision), .. } if revision == "main"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointSource {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A repository on the Hugging Face Hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit; `None`: as the [`OpenOptions`] say.
        revision: Option<String>,
    },
}

/// How a checkpoint is found and what is made of it.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// What to make of the folder.
    pub load: LoadOptions,
    /// How to reach the Hub, for the checkpoint and for a tokenizer that it does not bring along.
    #[cfg(feature = "hub")]
    pub hub: HubOptions,
}

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenProgress<'a> {
    /// Path of the file in its repository.
    pub file: &'a str,
    /// Bytes received so far.
    pub bytes_done: u64,
    /// Size of the file; 0 where the Hub did not say.
    pub bytes_total: u64,
}

/// Loads a policy from a folder or Hub repository (`owner/name`, `owner/name@revision`) onto a device, with the
/// defaults for everything.
///
/// [`open`] and [`Device::load`] are the same in two steps and with options.
///
/// # Errors
/// As [`open`], [`Device::open`] and [`Device::load`].
///
/// ```
/// use smolvla::policy::Observation;
/// use smolvla::processor::Image;
/// use smolvla::synth::{self, SynthOptions};
///
/// // A miniature policy with random weights stands in for a real one.
/// let folder = tempfile::tempdir()?;
/// let folder = folder.path().join("policy");
/// synth::write(&SynthOptions::default(), &folder, &mut |_, _| ())?;
///
/// let mut policy = smolvla::load(&folder.to_string_lossy(), "reference")?;
/// let gray = Image::from_rgb8("camera1", 64, 48, vec![128; 64 * 48 * 3])?;
/// let observation = Observation {
///     images: vec![("camera1".into(), gray)],
///     state: vec![0.0; policy.info().state_dim],
///     task: "pick up the red block".into(),
/// };
/// let actions = policy.select_action(&[observation])?;
/// assert_eq!(actions[0].len(), policy.info().action_dim);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load(checkpoint: &str, device: &str) -> Result<Box<dyn Policy>> {
    let device = Device::open(device)?;
    let checkpoint = open(&CheckpointSource::parse(checkpoint), &OpenOptions::from_env(), &mut |_| ())?;
    device.load(&checkpoint, &PolicyOptions::default(), &mut |_| ())
}

/// Finds a checkpoint, downloads what is not on this machine, and opens it.
///
/// A vision-language model's configuration or tokenizer that the checkpoint names but does not bring along is
/// taken from the Hub as well. `progress` hears of every file that is really downloaded.
///
/// # Errors
/// As [`Checkpoint::open`] and, with the feature `hub`, its `fetch_checkpoint`; [`Error::Hub`] for a repository
/// in a build without that feature.
pub fn open(
    source: &CheckpointSource,
    options: &OpenOptions,
    progress: &mut dyn FnMut(OpenProgress<'_>),
) -> Result<Checkpoint> {
    let folder = source.fetch(options, progress)?;
    let mut checkpoint = match Checkpoint::open(&folder, &options.load) {
        Err(Error::Config { file, key, reason }) if key == "vlm_model_name" && options.load.vlm.is_none() => {
            match fetch_vlm(&vlm_name(&folder), options, progress) {
                Some(vlm) => {
                    Checkpoint::open(&folder, &LoadOptions { vlm: Some(vlm?), ..options.load.clone() })?
                }
                None => return Err(Error::Config { file, key, reason }),
            }
        }
        result => result?,
    };
    tracing::info!(
        config = %checkpoint.config_file().display(),
        weights = %checkpoint.weights.path().display(),
        "checkpoint opened"
    );
    if let Err(missing) = checkpoint.tokenizer() {
        let name = checkpoint.tokenizer_source().to_owned();
        let vlm = fetch_vlm(&name, options, progress).ok_or(missing)?;
        checkpoint.set_tokenizer(&vlm.map_err(|error| no_tokenizer(&folder, &error))?);
    }
    let statistics = checkpoint.statistics.as_ref();
    tracing::info!(
        statistics = statistics.map_or("none", |chosen| chosen.group.as_deref().unwrap_or("any robot")),
        tokenizer = %checkpoint.tokenizer()?.display(),
        "processors chosen"
    );
    Ok(checkpoint)
}

impl CheckpointSource {
    /// What `text` names: a folder if there is one, else a repository if it looks like `owner/name` or
    /// `owner/name@revision`, alone or after `https://huggingface.co/`, else a folder that is missing.
    pub fn parse(text: &str) -> Self {
        if Path::new(text).exists() {
            return Self::Folder(text.into());
        }
        let page = text.strip_prefix(HUB_PAGE).map(|page| page.trim_end_matches('/'));
        let (repo, revision) = match page.unwrap_or(text).split_once('@') {
            Some((repo, revision)) if !revision.is_empty() && !revision.contains('@') => {
                (repo, Some(revision.to_owned()))
            }
            Some(_) => return Self::Folder(text.into()),
            None => (page.unwrap_or(text), None),
        };
        if is_repository(repo) {
            Self::Hub { repo: repo.to_owned(), revision }
        } else {
            Self::Folder(text.into())
        }
    }

    /// The local folder, after fetching it if need be.
    ///
    /// # Errors
    /// [`Error::Hub`] when the repository cannot be had.
    #[cfg(feature = "hub")]
    pub fn fetch(
        &self,
        options: &OpenOptions,
        progress: &mut dyn FnMut(OpenProgress<'_>),
    ) -> Result<PathBuf> {
        match self {
            Self::Folder(folder) => Ok(folder.clone()),
            Self::Hub { repo, revision } => {
                let mut hub_options = options.hub.clone();
                hub_options.revision = revision.clone().or(hub_options.revision);
                hub::fetch_checkpoint(repo, &hub_options, &mut |fetch| progress(fetch.into()))
            }
        }
    }

    /// The local folder; this build cannot fetch one.
    ///
    /// # Errors
    /// [`Error::Hub`] for a repository.
    #[cfg(not(feature = "hub"))]
    pub fn fetch(
        &self,
        _options: &OpenOptions,
        _progress: &mut dyn FnMut(OpenProgress<'_>),
    ) -> Result<PathBuf> {
        match self {
            Self::Folder(folder) => Ok(folder.clone()),
            Self::Hub { repo, .. } => Err(Error::Hub {
                repo: repo.clone(),
                reason: "there is no such folder, and this build cannot reach the Hub; build again with `--features hub`"
                    .to_owned(),
            }),
        }
    }
}

impl OpenOptions {
    /// The defaults, with the Hub as the environment has it (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`, …).
    pub fn from_env() -> Self {
        Self {
            load: LoadOptions::default(),
            #[cfg(feature = "hub")]
            hub: HubOptions::from_env(),
        }
    }
}

#[cfg(feature = "hub")]
impl<'a> From<hub::FetchProgress<'a>> for OpenProgress<'a> {
    fn from(progress: hub::FetchProgress<'a>) -> Self {
        let hub::FetchProgress { file, bytes_done, bytes_total } = progress;
        Self { file, bytes_done, bytes_total }
    }
}

/// The folder with configuration and tokenizer of a vision-language model on the Hub; `None` where `name` is
/// not the name of a repository.
#[cfg(feature = "hub")]
fn fetch_vlm(
    name: &str,
    options: &OpenOptions,
    progress: &mut dyn FnMut(OpenProgress<'_>),
) -> Option<Result<PathBuf>> {
    // The revision that was asked for is the checkpoint's, not this repository's.
    let hub_options = HubOptions { revision: None, ..options.hub.clone() };
    is_repository(name).then(|| hub::fetch_tokenizer(name, &hub_options, &mut |fetch| progress(fetch.into())))
}

#[cfg(not(feature = "hub"))]
fn fetch_vlm(
    _name: &str,
    _options: &OpenOptions,
    _progress: &mut dyn FnMut(OpenProgress<'_>),
) -> Option<Result<PathBuf>> {
    None
}

/// `vlm_model_name` of a checkpoint that does not open for lack of it; empty where there is none.
fn vlm_name(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    config["vlm_model_name"].as_str().unwrap_or_default().to_owned()
}

fn no_tokenizer(folder: &Path, error: &Error) -> Error {
    Error::Tokenizer {
        file: folder.join("tokenizer.json"),
        reason: format!(
            "not in the checkpoint and not to be had from the Hub ({error}); supply the tokenizer.json of the policy's \
             vision-language model with --tokenizer FILE"
        ),
    }
}

/// Whether `text` can be `owner/name` on the Hub rather than a path.
fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_tells_repositories_from_paths() {
        for path in [
            "policy",
            "./a/b/c",
            "../policy",
            "/policy",
            "a/b/c",
            "~/policy",
            "a b/c",
            "",
            "a/",
            "@",
            "a@b",
            "a/b@c@d",
            "a/b@",
            "https://huggingface.co/a",
        ] {
            assert_eq!(CheckpointSource::parse(path), CheckpointSource::Folder(path.into()), "{path}");
        }
        let expected =
            CheckpointSource::Hub { repo: "owner/policy-2.0".into(), revision: Some("a/b".into()) };
        assert_eq!(CheckpointSource::parse("owner/policy-2.0@a/b"), expected);
        let expected = CheckpointSource::Hub { repo: "owner/policy".into(), revision: None };
        assert_eq!(CheckpointSource::parse("https://huggingface.co/owner/policy/"), expected);
    }

    #[test]
    fn a_folder_that_exists_wins_over_a_repository() {
        let source = CheckpointSource::parse("src/bin");
        assert_eq!(source, CheckpointSource::Folder("src/bin".into()));
    }
}
