//! Checkpoints and tokenizers from the Hugging Face Hub.
//!
//! Files go to the cache that all Hugging Face tools share and are taken from there when they are present.
//! One fetch sees one commit: the first file settles it, and the others are asked for by its hash. A file
//! appears in the cache only when it is complete.

use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{error, fmt, fs, thread};

use hf_hub::progress::{DownloadEvent, FileStatus, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};
use sha2::{Digest, Sha256};

use crate::checkpoint::{ADAPTER, MERGE_ADAPTER};
use crate::{Error, Result};

/// The client itself knows no timeout; silence for this long ends a download.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const RETRIES: usize = 3;

/// Which revision to fetch, as whom, and where to keep it.
///
/// What is `None` follows the environment as in Hugging Face's own tools.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// Branch, tag or commit; `None`: `main`.
    pub revision: Option<String>,
    /// Access token; `None`: `HF_TOKEN`, or the file that `hf auth login` leaves in `HF_HOME`.
    pub token: Option<String>,
    /// Cache folder; `None`: `HF_HUB_CACHE`, or `hub` in `HF_HOME` (`~/.cache/huggingface`).
    pub cache: Option<PathBuf>,
    /// Address of the Hub; `None`: `HF_ENDPOINT`, or `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// Answer from the cache only, without any request.
    pub offline: bool,
}

impl HubOptions {
    /// Everything as the environment has it, including `HF_HUB_OFFLINE` (`1`, `true`, `yes` or `on`).
    pub fn from_env() -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_set(&value));
        Self { offline, ..Self::default() }
    }

    /// The cache folder in effect.
    pub fn cache_folder(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir)
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish()
    }
}

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchProgress<'a> {
    /// Path of the file in the repository.
    pub file: &'a str,
    /// Bytes received so far.
    pub bytes_done: u64,
    /// Size of the file; 0 where the Hub did not say.
    pub bytes_total: u64,
}

/// Fetches what a LeRobot checkpoint consists of and returns the local folder that holds it.
///
/// That is `config.json` and `model.safetensors`, and where the repository has them the processor files with
/// the state files they name, and a tokenizer. `progress` hears of every file that is really downloaded.
///
/// ```no_run
/// use smolvla_core::hub::{HubOptions, fetch_checkpoint};
///
/// let folder = fetch_checkpoint("lerobot/smolvla_base", &HubOptions::from_env(), &mut |progress| {
///     eprintln!("{}: {} of {} bytes", progress.file, progress.bytes_done, progress.bytes_total);
/// })?;
/// # Ok::<(), smolvla_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Hub`] naming repository, revision and file, with what to do: log in, correct the spelling, or
/// work offline. [`Error::Corrupt`] when a processor file cannot be followed.
pub fn fetch_checkpoint(
    repo: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(FetchProgress<'_>),
) -> Result<PathBuf> {
    let mut fetch = Fetch::open(repo, options, "config.json", progress)?;
    for processor in ["policy_preprocessor.json", "policy_postprocessor.json"] {
        if let Some(path) = fetch.optional(processor)? {
            for state_file in read_state_files(&path)? {
                fetch.required(&state_file)?;
            }
        }
    }
    for folder in ["", "tokenizer/"] {
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fetch.optional(&format!("{folder}{file}"))?;
        }
    }
    match fetch.optional("model.safetensors")? {
        Some(_) => Ok(fetch.folder),
        None if fetch.optional(ADAPTER)?.is_some() => Err(Error::Hub {
            repo: fetch.source.label,
            reason: format!("holds a LoRA adapter ({ADAPTER}) and no model.safetensors; {MERGE_ADAPTER}"),
        }),
        // For the reason.
        None => fetch.required("model.safetensors").map(|_| fetch.folder),
    }
}

/// Fetches the tokenizer and configuration of a vision-language model, without its weights, and returns the
/// local folder that holds `tokenizer.json` and, where they exist, `tokenizer_config.json` and `config.json`.
///
/// # Errors
/// [`Error::Hub`], as [`fetch_checkpoint`].
pub fn fetch_tokenizer(
    repo: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(FetchProgress<'_>),
) -> Result<PathBuf> {
    let mut fetch = Fetch::open(repo, options, "tokenizer.json", progress)?;
    fetch.optional("tokenizer_config.json")?;
    fetch.optional("config.json")?;
    Ok(fetch.folder)
}

/// The files of one commit.
struct Fetch<'a> {
    source: Source,
    commit: String,
    /// The commit's folder in the cache.
    folder: PathBuf,
    progress: &'a mut dyn FnMut(FetchProgress<'_>),
}

impl<'a> Fetch<'a> {
    /// Settles the commit by fetching its file `first`.
    fn open(
        repo: &str,
        options: &HubOptions,
        first: &str,
        progress: &'a mut dyn FnMut(FetchProgress<'_>),
    ) -> Result<Self> {
        let source = Source::new(repo, options)?;
        let revision = options.revision.as_deref().unwrap_or("main");
        let path = source
            .get(first, revision, options.offline, progress)
            .map_err(|failure| source.explain(first, failure))?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { source, commit, folder, progress })
    }

    fn required(&mut self, file: &str) -> Result<PathBuf> {
        self.get(file).map_err(|failure| self.source.explain(file, failure))
    }

    /// `None` where the repository has no such file, or offline where the cache has none.
    fn optional(&mut self, file: &str) -> Result<Option<PathBuf>> {
        match self.get(file) {
            Ok(path) => Ok(Some(path)),
            Err(Failure::Hub(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. })) => Ok(None),
            Err(failure) => Err(self.source.explain(file, failure)),
        }
    }

    fn get(&mut self, file: &str) -> Result<PathBuf, Failure> {
        // The cache also knows which files this commit lacks.
        match self.source.get(file, &self.commit, true, self.progress) {
            Err(Failure::Hub(HFError::LocalEntryNotFound { .. })) if !self.source.options.offline => {
                self.source.get(file, &self.commit, false, self.progress)
            }
            result => result,
        }
    }
}

/// A repository and how to reach it.
struct Source {
    options: HubOptions,
    /// Repository and revision, for messages.
    label: String,
    client: HFClient,
    repository: HFRepositorySync<RepoTypeModel>,
}

/// Why a file could not be had.
enum Failure {
    Hub(HFError),
    Silence,
    Panic,
    /// What arrived is not what was announced.
    Damaged(String),
}

/// What the downloading thread tells.
enum Message {
    Event(DownloadEvent),
    Done(Box<Result<PathBuf, HFError>>),
}

struct Forward(Sender<Message>);

impl ProgressHandler for Forward {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Download(event) = event {
            // Nobody listens any more after a timeout.
            let _ = self.0.send(Message::Event(event.clone()));
        }
    }
}

impl Source {
    fn new(repo: &str, options: &HubOptions) -> Result<Self> {
        let label = match &options.revision {
            Some(revision) => format!("{repo}@{revision}"),
            None => repo.to_owned(),
        };
        let refuse = |reason: String| Error::Hub { repo: label.clone(), reason };
        // Both become folder names in the cache.
        if !is_repository_name(repo) {
            return Err(refuse("is not the name of a repository; expected OWNER/NAME".to_owned()));
        }
        if options.revision.as_deref().is_some_and(|revision| !is_plain_path(revision)) {
            return Err(refuse("is not a branch, tag or commit".to_owned()));
        }
        let mut builder = HFClient::builder().cache_dir(options.cache_folder()).retry_max_attempts(RETRIES);
        if let Some(token) = &options.token {
            builder = builder.token(token);
        }
        if let Some(endpoint) = &options.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let (owner, name) = hf_hub::split_id(repo);
        let client = builder.build().map_err(|error| refuse(chain(&error)))?;
        let repository = HFClientSync::from_inner(client.clone())
            .map_err(|error| refuse(chain(&error)))?
            .model(owner, name);
        Ok(Self { options: options.clone(), label, client, repository })
    }

    /// The local path of one file, downloaded unless it is cached or `cache_only` forbids.
    fn get(
        &self,
        file: &str,
        revision: &str,
        cache_only: bool,
        progress: &mut dyn FnMut(FetchProgress<'_>),
    ) -> Result<PathBuf, Failure> {
        let (sender, receiver) = mpsc::channel();
        // A thread of its own, so that one that hangs can be left behind.
        thread::spawn({
            let (repository, file, revision) =
                (self.repository.clone(), file.to_owned(), revision.to_owned());
            move || {
                let result = repository
                    .download_file()
                    .filename(file)
                    .revision(revision)
                    .local_files_only(cache_only)
                    .progress(Forward(sender.clone()))
                    .send();
                let _ = sender.send(Message::Done(Box::new(result)));
            }
        });

        let mut announced = None;
        let mut received = false;
        let path = loop {
            match receiver.recv_timeout(SILENCE_LIMIT) {
                Ok(Message::Done(result)) => break result.map_err(Failure::Hub)?,
                Ok(Message::Event(DownloadEvent::Start { total_bytes, .. })) => announced = Some(total_bytes),
                Ok(Message::Event(DownloadEvent::Progress { files })) => {
                    for state in files {
                        received |= state.status == FileStatus::Started;
                        let (bytes_done, bytes_total) = (state.bytes_completed, state.total_bytes);
                        progress(FetchProgress { file, bytes_done, bytes_total });
                    }
                }
                Ok(Message::Event(DownloadEvent::AggregateProgress {
                    bytes_completed, total_bytes, ..
                })) => {
                    received = true;
                    progress(FetchProgress { file, bytes_done: bytes_completed, bytes_total: total_bytes });
                }
                Ok(Message::Event(DownloadEvent::Complete)) => {}
                Err(RecvTimeoutError::Timeout) => return Err(Failure::Silence),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Panic),
            }
        };
        if let Err(reason) = verify(&path, announced, received) {
            // The pointer first: what it names must never look complete.
            let blob = fs::canonicalize(&path);
            let _ = fs::remove_file(&path);
            let _ = blob.and_then(fs::remove_file);
            return Err(Failure::Damaged(reason));
        }
        Ok(path)
    }

    fn explain(&self, file: &str, failure: Failure) -> Error {
        let endpoint = self.client.endpoint();
        let offline_hint = "set HF_HUB_OFFLINE=1 to use only what is in the cache";
        let reason = match failure {
            Failure::Silence => format!(
                "no answer from {endpoint} for {} seconds; try again, or {offline_hint}",
                SILENCE_LIMIT.as_secs()
            ),
            Failure::Panic => "the Hub client failed; try again".to_owned(),
            Failure::Damaged(reason) => format!("{reason}; it was removed from the cache, try again"),
            Failure::Hub(error) => match error {
                HFError::AuthRequired { .. } => format!(
                    "{endpoint} asks for a login (401): the repository is private, gated or misspelt; check the \
                     name, and set HF_TOKEN or run `hf auth login`"
                ),
                HFError::Forbidden { .. } => format!(
                    "{endpoint} denies access (403): accept the repository's conditions on its page, or set \
                     HF_TOKEN to a token that may read it"
                ),
                HFError::EntryNotFound { .. }
                | HFError::RepoNotFound { .. }
                | HFError::RevisionNotFound { .. } => format!(
                    "not found on {endpoint} (404); check the spelling of the repository and the revision, and \
                     that it holds this file"
                ),
                HFError::LocalEntryNotFound { .. } => {
                    format!("not in the cache {}, and offline", self.client.cache_dir().display())
                }
                HFError::RateLimited { .. } => {
                    format!("{endpoint} refuses so many requests (429); wait a little, or set HF_TOKEN")
                }
                HFError::CacheLockTimeout { .. } => {
                    "another process is downloading it; try again when it is done".to_owned()
                }
                HFError::Request { ref source, .. } if source.is_connect() || source.is_timeout() => format!(
                    "cannot reach {endpoint} ({}); check the connection, or {offline_hint}",
                    root_cause(&error)
                ),
                HFError::Request { .. } => {
                    format!("the download broke off ({}); try again", root_cause(&error))
                }
                HFError::Io(source) => {
                    format!("cannot write to the cache {}: {source}", self.client.cache_dir().display())
                }
                other => chain(&other),
            },
        };
        Error::Hub { repo: self.label.clone(), reason: format!("{file}: {reason}") }
    }
}

/// Checks what was just downloaded against its announced size and, for large files, the hash it is named by.
fn verify(path: &Path, announced: Option<u64>, received: bool) -> Result<(), String> {
    let Some(expected) = announced else { return Ok(()) };
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if expected != 0 && size != expected {
        return Err(format!("{size} bytes arrived, but {expected} were announced"));
    }
    if !received {
        return Ok(());
    }
    let blob = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    // Small files are named by a git hash (40 digits); only the SHA-256 of large ones is plain.
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        let hash = sha256(&blob).map_err(|error| error.to_string())?;
        if !hash.eq_ignore_ascii_case(&name) {
            return Err("what arrived does not have the announced SHA-256".to_owned());
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The state files that a processor file names.
fn read_state_files(processor: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Processor {
        #[serde(default)]
        steps: Vec<Step>,
    }
    #[derive(serde::Deserialize)]
    struct Step {
        state_file: Option<String>,
    }

    let refuse = |reason| Error::Corrupt { file: processor.to_path_buf(), reason };
    let bytes = fs::read(processor).map_err(|source| Error::Io {
        action: "read",
        path: processor.to_path_buf(),
        source,
    })?;
    let parsed: Processor = serde_json::from_slice(&bytes)
        .map_err(|error| refuse(format!("is not a processor file: {error}")))?;
    let files: Vec<_> = parsed.steps.into_iter().filter_map(|step| step.state_file).collect();
    match files.iter().find(|file| !is_plain_path(file)) {
        Some(file) => Err(refuse(format!("state_file `{file}` is not a path within the repository"))),
        None => Ok(files),
    }
}

/// Whether `path` is relative and cannot leave the folder it is joined to.
fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
}

/// `OWNER/NAME`, or a bare `NAME` of the early days.
fn is_repository_name(repo: &str) -> bool {
    let mut parts = 0;
    repo.split('/').all(|part| {
        parts += 1;
        parts <= 2
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    })
}

fn is_set(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

/// An error with its causes.
fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors already spell out their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn root_cause(error: &dyn error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_words_are_those_of_hugging_face() {
        assert!(["1", "true", "YES", "On"].iter().all(|value| is_set(value)));
        assert!(!["", "0", "false", "2"].iter().any(|value| is_set(value)));
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        assert!(["lerobot/smolvla_base", "gpt2", "a-b/c.d"].iter().all(|repo| is_repository_name(repo)));
        for repo in ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a b", "a\\b", "https://hf.co/a/b"] {
            assert!(!is_repository_name(repo), "{repo}");
        }
        assert!(["main", "refs/pr/3", "v1.0"].iter().all(|path| is_plain_path(path)));
        assert!(!["", "../x", "a/../../x", "/etc/passwd", "a\\..\\b"].iter().any(|path| is_plain_path(path)));
    }

    #[test]
    fn adapter_in_the_place_of_weights_says_to_merge() {
        let cache = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repository = cache.path().join("models--robot--policy");
        let snapshot = repository.join("snapshots").join(commit);
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(repository.join("refs/main"), commit).unwrap();
        for file in ["config.json", ADAPTER] {
            fs::write(snapshot.join(file), "{}").unwrap();
        }
        let cache = Some(cache.path().to_path_buf());
        let options = HubOptions { cache, offline: true, ..HubOptions::default() };
        let message = fetch_checkpoint("robot/policy", &options, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("robot/policy: holds a LoRA adapter"), "{message}");
        assert!(message.contains("merge it into its base model"), "{message}");
    }

    #[test]
    fn debug_output_hides_the_token() {
        let options = HubOptions { token: Some("hf_secret".into()), ..HubOptions::default() };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
