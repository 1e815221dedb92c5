//! Real `stageline` processes, seen from outside: their log, their exit, and the signals that they get.

use crate::environment;
use crate::patience::soon;
use serde_json::Value;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Variables of a program's environment beside those that it keeps.
pub type Environment<'a> = &'a [(&'a str, &'a str)];

/// A running program. Killed when dropped; what it has started ends with it.
pub struct Program {
    child: Child,
    pub pid: u32,
    /// Its standard error so far; it closes when the program has ended.
    pub lines: watch::Receiver<Vec<String>>,
}

/// Has the program for benches compute nothing.
pub const FAKE: Environment = &[("BENCH_BATCH_US", "0")];

/// See [`Program::belongings`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Belongings {
    pub files: usize,
    pub threads: usize,
    pub shared: usize,
}

impl Program {
    /// `stageline` with these arguments, its log as JSON, and no environment but what finds files.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(&[], arguments)
    }

    /// The same with an executor that computes nothing.
    pub fn fake(arguments: &[&str]) -> Self {
        Self::start_in(FAKE, arguments)
    }

    /// As [`Self::start`], with these in its environment, too.
    pub fn start_in(more: Environment, arguments: &[&str]) -> Self {
        let fake = more.iter().any(|said| FAKE.contains(said));
        let program = if fake { env!("CARGO_BIN_EXE_stageline-bench") } else { env!("CARGO_BIN_EXE_stageline") };
        let mut command = Command::new(program);
        command.args(arguments).args(["--log-format", "json"]).env_clear().envs(environment::kept());
        command.envs(more.iter().copied()).current_dir(std::env::temp_dir());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the program starts");
        let pid = child.id().expect("it has just been started");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (end, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            // Always read, wanted or not: a full pipe would stop the program.
            while let Ok(Some(line)) = log.next_line().await {
                end.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        Self { child, pid, lines }
    }

    /// What `find` makes of the log, as soon as it makes something of it.
    pub async fn logged<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let mut lines = self.lines.clone();
        let found = soon(what, lines.wait_for(|lines| find(lines).is_some())).await;
        let found = found.ok().and_then(|lines| find(&lines));
        found.unwrap_or_else(|| panic!("the program ended before {what}:\n{}", self.lines.borrow().join("\n")))
    }

    /// Whether the log holds what `find` looks for, so far.
    pub fn log(&self, find: impl Fn(&[String]) -> bool) -> bool {
        find(&self.lines.borrow())
    }

    /// The address that `stage` serves HTTP on, when it has said for the `time`th time (from 1) that it is ready.
    pub async fn ready(&self, stage: usize, time: usize) -> String {
        let what = format!("stage {stage} to be ready");
        self.logged(&what, |lines| lines.iter().filter_map(|line| address(line, stage)).nth(time - 1)).await
    }

    /// Kills it, as a power cut would.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the program can be killed");
    }

    /// Asks it to finish, as whoever runs services does.
    pub fn terminate(&self) {
        signal("TERM", &self.pid.to_string());
    }

    /// Asks it to finish, as Ctrl-C in a terminal does: every process of its group gets the signal.
    pub fn interrupt(&self) {
        signal("INT", &format!("-{}", self.pid));
    }

    /// Its end.
    pub async fn exit(&mut self) -> ExitStatus {
        let status = soon("the program's end", self.child.wait()).await;
        status.expect("the program's status")
    }

    /// What it has open, runs and shares: file descriptors, threads, and mappings of memory that others may map too.
    pub fn belongings(&self) -> Belongings {
        let folder = std::path::PathBuf::from(format!("/proc/{}", self.pid));
        let count = |name: &str| std::fs::read_dir(folder.join(name)).expect("the program runs").count();
        let maps = std::fs::read_to_string(folder.join("maps")).expect("the program runs");
        let shared = maps.lines().filter(|line| line.contains("/memfd:stageline")).count();
        Belongings { files: count("fd"), threads: count("task"), shared }
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the program runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// The process that it has started for `stage`.
    pub fn child(&self, stage: usize) -> Option<u32> {
        let parent = format!("PPid:\t{}", self.pid);
        let processes = std::fs::read_dir("/proc").expect("the list of processes").flatten();
        let of_stage = |folder: std::path::PathBuf| {
            let status = std::fs::read_to_string(folder.join("status")).ok()?;
            let arguments = std::fs::read_to_string(folder.join("cmdline")).ok()?;
            let it = status.lines().any(|line| line == parent) && arguments.contains(&format!("--stage\0{stage}\0"));
            it.then(|| folder.file_name()?.to_str()?.parse().ok()).flatten()
        };
        processes.filter_map(|entry| of_stage(entry.path())).next()
    }
}

/// The address of a line of the log that says that `stage` is ready.
pub fn address(line: &str, stage: usize) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let it = line["message"] == "ready" && line["stage"] == stage;
    it.then(|| line["address"].as_str().expect("an address").to_owned())
}

impl Drop for Program {
    fn drop(&mut self) {
        kill(self.pid);
    }
}

/// Kills a process, as a power cut would.
pub fn kill(pid: u32) {
    signal("KILL", &pid.to_string());
}

/// Whether a process runs: one that has ended, but that nobody has asked for its status, does not.
pub fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
}

/// Sends a signal to a process, or to a group (`-ID`). The shell does: the standard library sends none but SIGKILL.
pub fn signal(name: &str, to: &str) {
    let script = format!("kill -s {name} -- {to}");
    // Whoever is gone already needs no signal.
    let _ = std::process::Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
}
