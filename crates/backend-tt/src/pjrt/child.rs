//! Tenstorrent's plugin in a process of its own, without a card: for tests.
//!
//! Its variables are read when it is loaded, and a test program has threads, so the plugin runs in a child: the same
//! program again, with words of its own. There its files stay in one folder, because the kernels that it builds are
//! cached by their paths.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};

use super::plugin::Plugin;

/// The first argument of a child; the second is what it does, the third the plugin.
const CHILD: &str = "--as-child";

/// The task of a child that only loads the plugin, which unpacks its files then.
const UNPACK: &str = "unpack";

/// Names the description of the cluster that the runtime then mocks.
pub const MOCK_VARIABLE: &str = "TT_METAL_MOCK_CLUSTER_DESC_PATH";

/// What the plugin's own variables start with.
const PREFIXES: [&str; 4] = ["TT_", "TTXLA_", "TTMLIR_", "TTNN_"];

/// The description of a machine with one p150, in what the plugin unpacks.
const P150: &str = "tt_metal/third_party/umd/tests/cluster_descriptor_examples/blackhole_P150.yaml";

/// Starts children that load a plugin, with a folder for its files.
#[derive(Clone, Debug)]
pub struct Children {
    plugin: PathBuf,
    scratch: PathBuf,
}

impl Children {
    /// Children of this program that load `plugin`, which keeps its files in `scratch`: the same folder every time, for
    /// what it builds to be found again.
    pub fn new(plugin: impl Into<PathBuf>, scratch: impl Into<PathBuf>) -> Self {
        Self { plugin: plugin.into(), scratch: scratch.into() }
    }

    /// Runs this program again to do `task`, which its [`as_child`] knows, and returns what it prints. It sees no variable
    /// of the plugin's but those that are set here; a mock of one p150 where that is asked for.
    ///
    /// # Errors
    /// All that the child printed, where it fails.
    pub fn run(&self, task: &str, mock: bool) -> Result<String, String> {
        if !mock {
            return self.start(task, None);
        }
        self.start(UNPACK, None)?;
        let failed = |error: std::io::Error| format!("{}: {error}", self.scratch.display());
        let unpacked = std::fs::read_dir(&self.scratch).map_err(failed)?.flatten();
        let description = unpacked.map(|entry| entry.path().join(P150)).filter(|path| path.is_file()).max();
        self.start(task, Some(&description.ok_or("the plugin unpacked no description of a p150")?))
    }

    fn start(&self, task: &str, description: Option<&Path>) -> Result<String, String> {
        // Two that unpack into one folder at once disturb each other, and the plugin ends its process over that.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: std::io::Error| format!("cannot start a child: {error}");
        std::fs::create_dir_all(&self.scratch).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?);
        // The runtime writes logs into a folder `generated` of the current one.
        child.args([OsStr::new(CHILD), OsStr::new(task), self.plugin.as_os_str()]).current_dir(&self.scratch);
        for (name, _) in std::env::vars_os() {
            if PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                child.env_remove(name);
            }
        }
        child.env("TMPDIR", &self.scratch).env("TT_METAL_CACHE", self.scratch.join("kernels"));
        if let Some(description) = description {
            child.env(MOCK_VARIABLE, description);
        }
        let output = child.output().map_err(failed)?;
        let [printed, complained] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if output.status.success() {
            Ok(printed)
        } else {
            Err(format!("{task}: {}\n{printed}{complained}", output.status))
        }
    }
}

/// What this process does as a child, if it is one: loads the plugin and hands it to `perform` with the task.
#[allow(clippy::print_stderr, reason = "the parent reads it")]
pub fn as_child(perform: impl FnOnce(&str, &Plugin) -> Result<(), String>) -> Option<ExitCode> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let [first, task, plugin] = &words[..] else { return None };
    if first != CHILD {
        return None;
    }
    let outcome = Plugin::load(plugin).map_err(|error| error.to_string()).and_then(|plugin| {
        let task = task.to_string_lossy();
        if task == UNPACK { Ok(()) } else { perform(&task, &plugin) }
    });
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    })
}
