//! Fetching from a Hub played by a small HTTP server on the loopback interface.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, fs, thread};

use sha2::{Digest, Sha256};
use smolvla_core::hub::{HubOptions, fetch_checkpoint, fetch_tokenizer};
use smolvla_core::{Error, Result};
use tempfile::TempDir;

const REPO: &str = "robot/policy";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const STATE_FILE: &str = "policy_preprocessor_step_5_normalizer_processor.safetensors";
/// Set in the child process that [`environment_decides_what_options_leave_open`] starts.
const CHILD: &str = "SMOLVLA_HUB_TEST_CHILD";

/// How the server treats one file.
#[derive(Clone)]
enum Fault {
    /// Every request is answered with this status.
    Status(u16),
    /// Only the download itself is answered with this status; its metadata is fine.
    DownloadStatus(u16),
    /// The connection closes half-way.
    Truncated,
    /// Other bytes of the same length arrive.
    Corrupted,
}

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, Fault>,
    requests: Vec<Request>,
}

/// A Hub that holds one repository, and an empty cache.
struct Hub {
    state: Arc<Mutex<State>>,
    endpoint: String,
    cache: TempDir,
}

impl Hub {
    /// Serves a whole checkpoint.
    fn start() -> Self {
        let processor = format!(r#"{{"steps": [{{"config": {{}}}}, {{"state_file": "{STATE_FILE}"}}]}}"#);
        let files = [
            ("config.json", br#"{"type": "smolvla"}"#.to_vec()),
            ("model.safetensors", (0..200_000_u32).map(|i| ((i * 31) >> 4) as u8).collect()),
            ("policy_preprocessor.json", processor.into_bytes()),
            (STATE_FILE, b"statistics".to_vec()),
        ];
        let files = files.map(|(name, bytes)| (name.to_owned(), bytes)).into();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that gives up half-way is none of the server's business.
                    thread::spawn(move || answer(stream, &state).ok());
                }
            }
        });
        Self { state, endpoint, cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            cache: Some(self.cache.path().to_path_buf()),
            endpoint: Some(self.endpoint.clone()),
            token: Some("hf_secret".to_owned()),
            ..HubOptions::default()
        }
    }

    /// The same cache, and a Hub that nobody can reach.
    fn unreachable(&self) -> HubOptions {
        // Bound and freed again: nobody listens there.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        HubOptions { endpoint: Some(format!("http://{free}")), ..self.options() }
    }

    fn offline(&self) -> HubOptions {
        HubOptions { offline: true, ..self.options() }
    }

    fn put(&self, file: &str, content: &[u8]) {
        self.state.lock().unwrap().files.insert(file.to_owned(), content.to_vec());
    }

    fn remove(&self, file: &str) {
        self.state.lock().unwrap().files.remove(file);
    }

    fn set_fault(&self, file: &str, fault: Option<Fault>) {
        let faults = &mut self.state.lock().unwrap().faults;
        match fault {
            Some(fault) => faults.insert(file.to_owned(), fault),
            None => faults.remove(file),
        };
    }

    /// The requests since the last call.
    fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// Everything in the cache that passes for a complete file.
    fn complete_blobs(&self) -> Vec<PathBuf> {
        let blobs = self.cache.path().join("models--robot--policy/blobs");
        let entries = fs::read_dir(blobs).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_none_or(|e| e != "incomplete")).collect()
    }
}

/// Answers one request with the headers the Hub sends, and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let (method, path) = first.split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let mut authorization = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = Some(value.to_owned());
        }
    }
    let request = Request { method: method.to_owned(), path: path.to_owned(), authorization };
    let (content, fault) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request);
        let file = path
            .strip_prefix("/robot/policy/resolve/")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(revision, _)| ["main", "v1", "refs%2Fpr%2F3", COMMIT].contains(revision))
            .map_or("", |(_, file)| file);
        (state.files.get(file).cloned(), state.faults.get(file).cloned())
    };
    let is_head = method == "HEAD";
    let status = match (&content, &fault) {
        (_, Some(Fault::Status(status))) => *status,
        (_, Some(Fault::DownloadStatus(status))) if !is_head => *status,
        (None, _) => 404,
        (Some(_), _) => 200,
    };
    let content = content.unwrap_or_default();
    let hash: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut body = if status == 200 { content } else { b"{\"error\": \"refused\"}".to_vec() };
    if matches!(fault, Some(Fault::Corrupted)) {
        body[0] ^= 1;
    }
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"{hash}\"\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    if matches!(fault, Some(Fault::Truncated)) {
        body.truncate(body.len() / 2);
    }
    if !is_head {
        stream.write_all(&body)?;
    }
    stream.flush()
}

fn fetch(options: &HubOptions) -> Result<PathBuf> {
    fetch_checkpoint(REPO, options, &mut |_| {})
}

fn refusal(result: Result<PathBuf>) -> String {
    match result.unwrap_err() {
        error @ Error::Hub { .. } => error.to_string(),
        other => panic!("expected a Hub error, got {other:?}"),
    }
}

#[test]
fn checkpoint_arrives_whole_with_state_files_token_and_progress() {
    let hub = Hub::start();
    let mut seen = BTreeMap::new();
    let folder = fetch_checkpoint(REPO, &hub.options(), &mut |progress| {
        let last = seen.entry(progress.file.to_owned()).or_insert((0, 0));
        assert!(progress.bytes_done >= last.0, "{progress:?} after {last:?}");
        *last = (progress.bytes_done, progress.bytes_total);
    })
    .unwrap();

    let snapshots = hub.cache.path().join("models--robot--policy/snapshots");
    assert_eq!(folder, snapshots.join(COMMIT));
    let files = hub.state.lock().unwrap().files.clone();
    for (name, content) in &files {
        assert!(fs::read(folder.join(name)).unwrap() == *content, "{name}");
        let size = content.len() as u64;
        assert_eq!(seen.get(name), Some(&(size, size)), "{name}");
    }
    assert_eq!(seen.len(), files.len());
    let requests = hub.take_requests();
    assert!(requests.iter().all(|r| r.authorization.as_deref() == Some("Bearer hf_secret")), "{requests:?}");
}

#[test]
fn second_run_asks_only_which_commit_the_branch_is_at() {
    let hub = Hub::start();
    let folder = fetch(&hub.options()).unwrap();
    hub.take_requests();
    let again = fetch_checkpoint(REPO, &hub.options(), &mut |progress| {
        assert_eq!(progress.file, "config.json", "nothing else is downloaded again");
    });
    assert_eq!(again.unwrap(), folder);
    let paths: Vec<_> = hub.take_requests().into_iter().map(|r| (r.method, r.path)).collect();
    assert_eq!(paths, [("HEAD".to_owned(), "/robot/policy/resolve/main/config.json".to_owned())]);

    let pinned = HubOptions { revision: Some(COMMIT.to_owned()), ..hub.options() };
    assert_eq!(fetch(&pinned).unwrap(), folder);
    assert_eq!(hub.take_requests(), []);
}

#[test]
fn cached_checkpoint_needs_no_network() {
    let hub = Hub::start();
    let folder = fetch(&hub.options()).unwrap();
    assert_eq!(fetch(&hub.unreachable()).unwrap(), folder);
    hub.take_requests();
    assert_eq!(fetch(&hub.offline()).unwrap(), folder);
    assert_eq!(hub.take_requests(), []);
}

#[test]
fn offline_miss_names_the_file_and_the_cache() {
    let hub = Hub::start();
    let message = refusal(fetch(&hub.offline()));
    let cache = hub.cache.path().display();
    assert_eq!(message, format!("robot/policy: config.json: not in the cache {cache}, and offline"));
    assert_eq!(hub.take_requests(), []);
}

#[test]
fn unreachable_hub_says_how_to_work_offline() {
    let hub = Hub::start();
    let message = refusal(fetch(&hub.unreachable()));
    assert!(message.starts_with("robot/policy: config.json: cannot reach http://127.0.0.1:"), "{message}");
    assert!(
        message.ends_with("check the connection, or set HF_HUB_OFFLINE=1 to use only what is in the cache")
    );
}

#[test]
fn missing_repository_revision_and_file_are_named() {
    let hub = Hub::start();
    let message = refusal(fetch_checkpoint("robot/polcy", &hub.options(), &mut |_| {}));
    assert!(message.starts_with("robot/polcy: config.json: not found on http://"), "{message}");

    let options = HubOptions { revision: Some("v2".to_owned()), ..hub.options() };
    let message = refusal(fetch(&options));
    assert!(message.starts_with("robot/policy@v2: config.json: not found"), "{message}");

    hub.remove("model.safetensors");
    let message = refusal(fetch(&hub.options()));
    assert!(message.starts_with("robot/policy: model.safetensors: not found"), "{message}");
}

#[test]
fn named_state_file_must_exist() {
    let hub = Hub::start();
    hub.remove(STATE_FILE);
    let message = refusal(fetch(&hub.options()));
    assert!(message.starts_with(&format!("robot/policy: {STATE_FILE}: not found")), "{message}");
}

#[test]
fn denied_access_says_what_to_do() {
    let hub = Hub::start();
    for (status, expected) in [(401, "set HF_TOKEN or run `hf auth login`"), (403, "accept the repository's")]
    {
        hub.set_fault("config.json", Some(Fault::Status(status)));
        let message = refusal(fetch(&hub.options()));
        assert!(message.contains(&format!("({status})")) && message.contains(expected), "{message}");
        assert!(!message.contains("hf_secret"), "{message}");
    }
}

#[test]
fn revision_is_asked_for_by_name_and_then_by_commit() {
    let hub = Hub::start();
    for (revision, encoded) in [("v1", "v1"), ("refs/pr/3", "refs%2Fpr%2F3")] {
        let options = HubOptions { revision: Some(revision.to_owned()), ..hub.options() };
        fetch(&options).unwrap();
        let requests = hub.take_requests();
        assert_eq!(requests[0].path, format!("/robot/policy/resolve/{encoded}/config.json"));
        assert!(requests.iter().all(|r| r.path.contains(encoded) || r.path.contains(COMMIT)), "{requests:?}");
    }
}

#[test]
fn broken_download_leaves_nothing_that_looks_complete() {
    for fault in [Fault::Truncated, Fault::Corrupted, Fault::DownloadStatus(403)] {
        let hub = Hub::start();
        hub.set_fault("model.safetensors", Some(fault));
        let message = refusal(fetch(&hub.options()));
        assert!(message.starts_with("robot/policy: model.safetensors: "), "{message}");
        assert!(message.ends_with("try again"), "{message}");
        assert_eq!(hub.complete_blobs().len(), 3, "config, processor and statistics");
        let message = refusal(fetch(&hub.offline()));
        assert!(message.contains("model.safetensors: not in the cache"), "{message}");

        hub.set_fault("model.safetensors", None);
        let folder = fetch(&hub.options()).unwrap();
        let content = hub.state.lock().unwrap().files["model.safetensors"].clone();
        assert!(fs::read(folder.join("model.safetensors")).unwrap() == content);
    }
}

#[test]
fn hostile_names_are_refused_before_they_become_paths() {
    let hub = Hub::start();
    let escaping = br#"{"steps": [{"state_file": "../../../../escaped"}]}"#;
    hub.put("policy_preprocessor.json", escaping);
    let error = fetch(&hub.options()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { .. }), "{error:?}");
    assert!(
        error.to_string().contains("`../../../../escaped` is not a path within the repository"),
        "{error}"
    );
    hub.take_requests();

    let options = HubOptions { revision: Some("../../escaped".to_owned()), ..hub.options() };
    refusal(fetch(&options));
    refusal(fetch_checkpoint("robot/..", &hub.options(), &mut |_| {}));
    assert_eq!(hub.take_requests(), []);
}

#[test]
fn tokenizer_arrives_without_the_weights() {
    let hub = Hub::start();
    hub.put("tokenizer.json", b"{}");
    let folder = fetch_tokenizer(REPO, &hub.options(), &mut |_| {}).unwrap();
    assert_eq!(fs::read(folder.join("tokenizer.json")).unwrap(), b"{}");
    assert!(folder.join("config.json").exists());
    assert!(!folder.join("tokenizer_config.json").exists() && !folder.join("model.safetensors").exists());
    hub.remove("tokenizer.json");
    let elsewhere = tempfile::tempdir().unwrap();
    let options = HubOptions { cache: Some(elsewhere.path().to_path_buf()), ..hub.options() };
    let message = refusal(fetch_tokenizer(REPO, &options, &mut |_| {}));
    assert!(message.starts_with("robot/policy: tokenizer.json: not found"), "{message}");
}

#[test]
fn environment_decides_what_options_leave_open() {
    if env::var_os(CHILD).is_some() {
        // In the child: no options at all.
        return fetch(&HubOptions::from_env()).map(drop).unwrap();
    }
    let hub = Hub::start();
    let run = |name: &str, variables: &[(&str, &str)]| {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "environment_decides_what_options_leave_open", "--test-threads=1"]);
        for variable in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
            child.env_remove(variable);
        }
        let home = hub.cache.path().join(name);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("token"), "hf_from_file\n").unwrap();
        child.env(CHILD, "1").env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", &home);
        let status = child.envs(variables.iter().copied()).output().unwrap().status;
        let config = |cache: &Path| {
            cache.join("models--robot--policy/snapshots").join(COMMIT).join("config.json").exists()
        };
        (status.success(), config(&home.join("hub")), config(&hub.cache.path().join("elsewhere")))
    };
    let tokens = || {
        let mut tokens: Vec<_> = hub.take_requests().into_iter().filter_map(|r| r.authorization).collect();
        tokens.dedup();
        tokens
    };

    assert_eq!(run("plain", &[]), (true, true, false));
    assert_eq!(tokens(), ["Bearer hf_from_file"]);
    assert_eq!(run("offline", &[("HF_HUB_OFFLINE", "1")]), (false, false, false));
    assert_eq!(tokens(), [""; 0]);
    let elsewhere = hub.cache.path().join("elsewhere");
    let variables = [("HF_TOKEN", "hf_from_env"), ("HF_HUB_CACHE", elsewhere.to_str().unwrap())];
    assert_eq!(run("moved", &variables), (true, false, true));
    assert_eq!(tokens(), ["Bearer hf_from_env"]);
}
