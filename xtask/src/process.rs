//! Child processes. Every one has a deadline.
//!
//! A child gets an environment variable with a value of its own, which its descendants inherit.
//! When the deadline passes, every process that carries the value is killed: also those that
//! were reparented, or moved to another session or namespace.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::progress::{self, Reporter};

/// Deadline of a compilation or installation. Kubernetes takes 8 minutes on two cores.
pub const BUILD: Duration = Duration::from_secs(60 * 60);
/// Deadline of a step with an engine or a cluster.
pub const STEP: Duration = Duration::from_secs(10 * 60);
/// Deadline of a short command, such as a kubectl call.
pub const QUERY: Duration = Duration::from_secs(2 * 60);

/// Deadline of a shell that sends signals, which takes milliseconds. Not longer than the loop of
/// [`ProcessTree::kill`], which sends them until every process has ended.
const SIGNAL: Duration = KILL_TIMEOUT;
const MARK: &str = "SLUICE_XTASK_CHILD";
const POLL: Duration = Duration::from_millis(50);
/// How often a log is read for the end of its command.
const READ_LOG: Duration = Duration::from_secs(1);
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_LINES_SHOWN: usize = 25;

/// A running child together with its descendants.
pub struct ProcessTree {
    child: Child,
    mark: String,
}

impl ProcessTree {
    /// Starts `command`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{MARK}={}.{number}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap_or_default();
        let child = command
            .env(name, value)
            .spawn()
            .with_context(|| format!("cannot start {}", program(command)))?;
        Ok(Self { child, mark })
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the child and calls `ends` every `poll`. Returns `None` when that returned true and
    /// every process of the tree was killed.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    fn wait(&mut self, poll: Duration, ends: impl FnMut() -> bool) -> Result<Option<ExitStatus>> {
        let status = wait_for_child(&mut self.child, poll, ends)?;
        if status.is_none() {
            self.kill();
        }
        Ok(status)
    }

    /// Waits for the child until `deadline`.
    ///
    /// # Errors
    /// When the deadline passes or the child cannot be waited for.
    pub fn wait_within(
        &mut self,
        name: &str,
        deadline: Duration,
        poll: Duration,
    ) -> Result<ExitStatus> {
        let start = Instant::now();
        self.wait(poll, || start.elapsed() >= deadline)?.with_context(|| killed(name, deadline))
    }

    /// Kills every process of the tree and reaps the child.
    pub fn kill(&mut self) {
        let start = Instant::now();
        loop {
            let _ = self.child.try_wait();
            let members = self.members();
            if members.is_empty() || start.elapsed() > KILL_TIMEOUT {
                break;
            }
            let _ = signal("KILL", &members);
            thread::sleep(POLL);
        }
    }

    /// Processes whose environment carries the mark.
    fn members(&self) -> Vec<u32> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                    environment.split(|&b| b == 0).any(|v| v == self.mark.as_bytes())
                })
            })
            .collect()
    }
}

/// Waits for a child and calls `ends` every `poll`. Returns `None` when that returned true.
fn wait_for_child(
    child: &mut Child,
    poll: Duration,
    mut ends: impl FnMut() -> bool,
) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if ends() {
            return Ok(None);
        }
        thread::sleep(poll);
    }
}

/// Sends a signal, by name, to processes.
///
/// # Errors
/// When one of the processes does not exist, or the signals are not sent within 5 seconds.
pub fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("kill -{name} \"$@\""), "sh"])
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null());
    let start = Instant::now();
    let mut child = ProcessTree::start(&mut command)?.child;
    let status = wait_for_child(&mut child, POLL / 10, || start.elapsed() >= SIGNAL)?;
    if status.is_none() {
        // Not `ProcessTree::kill`, which calls this function. The shell has no children.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = status.with_context(|| killed(&command_line(&command), SIGNAL))?;
    ensure!(status.success(), "cannot signal processes {pids:?}");
    Ok(())
}

/// Runs a command as a step, with its output in a log file below `logs`.
///
/// # Errors
/// When the program cannot be started, exits with an error, or exceeds `deadline`. The end of
/// its log is printed.
pub fn run(name: &str, command: &mut Command, logs: &Path, deadline: Duration) -> Result<()> {
    let start = Instant::now();
    let (status, log) = run_quietly(name, command, logs, deadline)?;
    if !status.success() {
        eprintln!("{}", last_lines(&log, LOG_LINES_SHOWN));
        bail!("{name}: {} exited with {status}; log: {}", program(command), log.display());
    }
    progress::line(name, "done", start.elapsed());
    Ok(())
}

/// Like [`run`], but prints no closing line and returns the exit status and the log file.
///
/// # Errors
/// When the program cannot be started or exceeds `deadline`.
pub fn run_quietly(
    name: &str,
    command: &mut Command,
    logs: &Path,
    deadline: Duration,
) -> Result<(ExitStatus, PathBuf)> {
    let (status, log) = run_until(name, command, logs, deadline, |_| false)?;
    let status =
        status.with_context(|| format!("{}; log: {}", killed(name, deadline), log.display()))?;
    Ok((status, log))
}

/// Like [`run_quietly`], but also ends the command when `enough` returns true for its log, which is
/// read every second. Returns no status if the command was killed.
///
/// # Errors
/// When the program cannot be started.
pub fn run_until(
    name: &str,
    command: &mut Command,
    logs: &Path,
    deadline: Duration,
    enough: impl Fn(&str) -> bool,
) -> Result<(Option<ExitStatus>, PathBuf)> {
    fs::create_dir_all(logs)?;
    let log = logs.join(format!("{}.log", name.replace(|c: char| !c.is_alphanumeric(), "-")));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut reporter = Reporter::new(name);
    let (start, mut read) = (Instant::now(), Duration::ZERO);
    let status = ProcessTree::start(command)?.wait(POLL, || {
        reporter.report(|| last_lines(&log, 1));
        if start.elapsed() >= read + READ_LOG {
            read = start.elapsed();
            if enough(&String::from_utf8_lossy(&fs::read(&log).unwrap_or_default())) {
                return true;
            }
        }
        start.elapsed() >= deadline
    })?;
    Ok((status, log))
}

/// Runs a command with its output on the terminal.
///
/// # Errors
/// When the program cannot be started, exits with an error, or exceeds `deadline`.
pub fn run_attached(name: &str, command: &mut Command, deadline: Duration) -> Result<()> {
    let status =
        ProcessTree::start(command.stdin(Stdio::null()))?.wait_within(name, deadline, POLL)?;
    ensure!(status.success(), "{name}: {} exited with {status}", program(command));
    Ok(())
}

/// Returns what a command prints on stdout, trimmed. The deadline is [`QUERY`].
///
/// # Errors
/// As [`output_within`].
pub fn output(command: &mut Command) -> Result<String> {
    output_within(command.stdin(Stdio::null()), QUERY)
}

/// Returns what a command prints on stdout, trimmed.
///
/// # Errors
/// When the program cannot be started, exits with an error or exceeds `deadline`. The message
/// contains its stderr.
pub fn output_within(command: &mut Command, deadline: Duration) -> Result<String> {
    output_watched(command, deadline, || {})
}

/// Like [`output_within`], but calls `watch` while the command runs.
///
/// # Errors
/// As [`output_within`].
pub fn output_watched(
    command: &mut Command,
    deadline: Duration,
    mut watch: impl FnMut(),
) -> Result<String> {
    let start = Instant::now();
    let mut tree = ProcessTree::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = read_all(tree.child().stdout.take());
    let stderr = read_all(tree.child().stderr.take());
    let status = tree.wait(POLL / 10, || {
        watch();
        start.elapsed() >= deadline
    })?;
    let status = status.with_context(|| killed(&command_line(command), deadline))?;
    let stdout = stdout.join().unwrap_or_default();
    if !status.success() {
        let stderr = stderr.join().unwrap_or_default();
        bail!("{}: {}", command_line(command), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// Whether a command exits successfully within [`QUERY`].
pub fn succeeds(command: &mut Command) -> bool {
    output(command).is_ok()
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn killed(name: &str, deadline: Duration) -> String {
    format!("{name}: killed after {}", progress::time(deadline))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn command_line(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    format!("{} {}", program(command), words.join(" "))
}

/// The last `count` non-empty lines of a log file, from its last 64 KiB.
pub fn last_lines(log: &Path, count: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let length = file.metadata().map_or(0, |m| m.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(65_536)));
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_stdout_and_an_error_carries_stderr() {
        let mut echo = Command::new("echo");
        assert_eq!(output(echo.arg("hello")).expect("echo succeeds"), "hello");
        let mut failing = Command::new("sh");
        let error = output(failing.args(["-c", "echo broken >&2; exit 3"])).expect_err("exit 3");
        assert!(error.to_string().ends_with(": broken"), "{error}");
    }

    #[test]
    fn deadline_kills_descendants_in_other_sessions() {
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sh -c 'sleep 600; :' & sleep 600; :"]).stdin(Stdio::null());
        let mut tree = ProcessTree::start(&mut command).expect("sh starts");
        let start = Instant::now();
        // Two shells and the sleep of each.
        while tree.members().len() < 4 {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", tree.members());
            thread::sleep(POLL);
        }
        tree.kill();
        assert_eq!(tree.members(), Vec::<u32>::new());
        assert!(tree.child().try_wait().expect("the child is reaped").is_some());
    }

    #[test]
    fn command_that_exceeds_its_deadline_is_an_error() {
        let mut sleep = Command::new("sleep");
        let error = output_within(sleep.arg("600"), Duration::from_millis(100)).expect_err("late");
        assert_eq!(error.to_string(), "sleep 600: killed after 0.1s");
    }
}
