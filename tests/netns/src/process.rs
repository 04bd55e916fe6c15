//! Child processes with deadlines: commands that run to their end, and programs that run until
//! the test drops them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::wait::scaled;

/// Deadline of a command that runs to its end.
pub(crate) fn command_deadline() -> Duration {
    scaled(Duration::from_secs(30))
}

/// Deadline of a line of output that a running program is expected to write.
const LINE_DEADLINE: Duration = Duration::from_secs(30);

/// Seconds on a CPU of all threads that a process has.
pub fn cpu_seconds(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// Runs a command to its end; kills its process group at the deadline.
///
/// # Errors
/// The program cannot be started, or it did not exit before the deadline (`TimedOut`).
pub(crate) fn run(command: &mut Command, deadline: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    finish(command.spawn()?, deadline)
}

/// Waits for a child that leads its own process group and whose output is piped.
///
/// # Errors
/// It did not exit before the deadline (`TimedOut`); its process group is killed.
pub(crate) fn finish(mut child: Child, deadline: Duration) -> io::Result<Output> {
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let watchdog = Watchdog::start(group, deadline);
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || read_all(pipe)));
    let stdout = child.stdout.take().map(read_all).transpose()?.unwrap_or_default();
    let stderr = match stderr.map(JoinHandle::join) {
        Some(Ok(bytes)) => bytes?,
        _ => Vec::new(),
    };
    // The child stays a zombie until the watchdog is disarmed: its id cannot be reused meanwhile.
    while waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {
    }
    let expired = watchdog.disarm();
    let status = child.wait()?;
    if expired {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("killed after {deadline:?}: {}", String::from_utf8_lossy(&stderr)),
        ));
    }
    Ok(Output { status, stdout, stderr })
}

fn read_all(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Kills a process group at a deadline unless it is disarmed before.
struct Watchdog {
    disarm: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn start(group: Pid, deadline: Duration) -> Watchdog {
        let (disarm, disarmed) = channel();
        let thread = thread::spawn(move || {
            let expired = disarmed.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout);
            if expired {
                let _ = killpg(group, Signal::SIGKILL);
            }
            expired
        });
        Watchdog { disarm, thread }
    }

    /// Returns whether the deadline had passed.
    fn disarm(self) -> bool {
        let _ = self.disarm.send(());
        self.thread.join().unwrap_or(false)
    }
}

/// A running program whose output is read line by line.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    lines: Option<Receiver<String>>,
}

impl Process {
    /// Starts a program; its standard error is the test's.
    pub fn start(command: &mut Command) -> Process {
        let name = format!("{:?}", command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Process { child, name, lines: Some(lines) }
    }

    /// Takes over a program that was started with other output.
    pub(crate) fn from_child(child: Child, name: &str) -> Process {
        Process { child, name: name.to_owned(), lines: None }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line of output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.lines.as_ref().unwrap().recv_timeout(scaled(LINE_DEADLINE)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{}: no output within {LINE_DEADLINE:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.kill();
                panic!("{} exited: {:?}", self.name, self.child.try_wait())
            }
        }
    }

    /// Closes the program's input and reads its next line as JSON.
    #[track_caller]
    pub fn finish<T: DeserializeOwned>(mut self) -> T {
        drop(self.child.stdin.take());
        self.report()
    }

    /// For a program started by [`crate::Host::hold`]: lets it continue until `server` has
    /// responded or its own deadline has passed, and reads its report.
    #[track_caller]
    pub fn finish_after<T: DeserializeOwned>(mut self, server: &str) -> T {
        self.write_line(server);
        self.report()
    }

    /// Writes a line to the program's input.
    #[track_caller]
    pub fn write_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn report<T: DeserializeOwned>(&mut self) -> T {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.name))
    }

    /// Whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM and waits for the exit; returns the status and the time that it took.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return (status, start.elapsed()),
                None if start.elapsed() > command_deadline() => {
                    panic!("{} goes on after SIGTERM", self.name)
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that is ready for clients; it ends when this value is dropped.
#[derive(Debug)]
pub struct Server(pub(crate) Process);

impl Server {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}
