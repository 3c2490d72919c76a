//! Children of this program, and the folders and variables that XRT wants.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Completion;
use smolvla_backend_fpga::xrt::{DEVICE_PROCESS, Xclbin};
use tempfile::TempDir;

/// Names what this process does as a child, and the design that it loads.
const TASK_VARIABLE: &str = "SMOLVLA_XRT_TEST";
pub(super) const DESIGN_VARIABLE: &str = "SMOLVLA_XRT_TEST_DESIGN";
/// The task whose run does not end.
pub(super) const LEAVES_A_RUN: &str = "timeout";
/// Begins the line with which a child says what happened; XRT writes lines too.
const ANSWER: &str = "answer: ";
const IGNORED: &str = "ignored: ";

/// A child that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What a child was asked to do, and says.
pub(super) enum Answer {
    Said(String),
    Ignored(String),
}

/// What this process does as a child, if it is one.
pub(super) fn as_child() -> Option<ExitCode> {
    let task = std::env::var(TASK_VARIABLE).ok()?;
    let answer = match task.as_str() {
        "open" => Answer::Said(super::missing::open()),
        "emulated" => super::emulated::compute(),
        "banks" => super::emulated::banks(),
        LEAVES_A_RUN => super::emulated::time_out(),
        _ => return Some(ExitCode::FAILURE),
    };
    match answer {
        Answer::Said(text) => println!("\n{ANSWER}{text}"),
        Answer::Ignored(reason) => println!("\n{IGNORED}{reason}"),
    }
    Some(ExitCode::SUCCESS)
}

/// A place for one child.
pub(super) struct Place {
    pub(super) folder: TempDir,
    pub(super) design: PathBuf,
    /// Its sockets are in a folder of this name in `/tmp`.
    user: String,
}

impl Place {
    /// With a design in it, for emulation or not.
    pub(super) fn new(emulation: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let design = folder.path().join("design.xclbin");
        let written = Xclbin { emulation, ..Xclbin::emulation(32, 1 << 28) };
        fs::write(&design, written.to_bytes()).unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy().replace('.', "");
        Self { folder, design, user: format!("smolvla-xrt-{name}") }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A root with Debian's libraries: XRT looks in `lib`, and Debian has them in a folder that is named after the
    /// processor.
    pub(super) fn debian_root(&self) -> Result<PathBuf, String> {
        let libraries = PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        if !libraries.join("libxrt_coreutil.so.2").is_file() {
            return Err(format!(
                "XRT is not in {}; `cargo xtask setup` installs libxrt1",
                libraries.display()
            ));
        }
        let root = self.path("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(libraries, root.join("lib")).unwrap();
        Ok(root)
    }

    /// A Vitis whose device process is ours.
    pub(super) fn vitis(&self) -> PathBuf {
        let vitis = self.path("vitis");
        let process = vitis.join(DEVICE_PROCESS);
        fs::create_dir_all(process.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_smolvla-fpga-emu"), process).unwrap();
        vitis
    }

    /// Starts this program as a child, and gives what it says.
    ///
    /// One that leaves a run behind is stopped once it has said so: what XRT does at its end in software emulation
    /// either crashes it or waits for the run, which may take minutes.
    pub(super) fn child(&self, task: &str, variables: &[(&str, &Path)]) -> Result<Answer, String> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        for name in
            ["XILINX_XRT", "XILINX_VITIS", "XCL_EMULATION_MODE", "EMCONFIG_PATH", "EMULATION_SOCKETID"]
        {
            command.env_remove(name);
        }
        command.env(TASK_VARIABLE, task).env(DESIGN_VARIABLE, &self.design).env("USER", &self.user);
        command.envs(variables.iter().map(|(name, value)| (name, value.as_os_str())));
        // XRT leaves a folder `.run` where it runs, and signals its whole group of processes.
        command.current_dir(self.folder.path()).process_group(0);
        let output = |name: &str| fs::File::create(self.path(name)).map(Stdio::from).unwrap();
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        let said = |start: &str| {
            let stdout = self.text("stdout");
            // A line without its end is still being written.
            let mut lines = stdout.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            lines.find_map(|line| line.strip_prefix(start)).map(str::to_owned)
        };
        let answer = || said(ANSWER).map(Answer::Said).or_else(|| said(IGNORED).map(Answer::Ignored));
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if task == LEAVES_A_RUN && answer().is_some() => {
                    child.kill().unwrap();
                    break Some(child.wait().unwrap());
                }
                None if start.elapsed() > LIMIT => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let (stdout, stderr) = (self.text("stdout"), self.text("stderr"));
        match status {
            Some(status) if status.success() || task == LEAVES_A_RUN => {
                answer().ok_or_else(|| format!("the child said nothing\n{stdout}\n{stderr}"))
            }
            Some(status) => Err(format!("the child ended with {status}\n{stdout}\n{stderr}")),
            None => Err(format!("the child was stopped after {LIMIT:?}\n{stdout}\n{stderr}")),
        }
    }

    /// What a file here says.
    pub(super) fn text(&self, name: &str) -> String {
        let mut bytes = Vec::new();
        fs::File::open(self.path(name)).and_then(|mut file| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new("/tmp").join(&self.user));
    }
}

/// What a test says of a child that may have had to be ignored.
pub(super) fn completion(answer: Result<Answer, String>, expected: &str) -> Result<Completion, String> {
    match answer? {
        Answer::Said(text) if text == expected => Ok(Completion::Completed),
        Answer::Said(text) => Err(text),
        Answer::Ignored(reason) => Ok(Completion::ignored_with(reason)),
    }
}
