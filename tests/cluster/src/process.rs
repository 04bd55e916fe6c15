//! Child processes with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Result of a child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, trimmed.
    pub stdout: String,
    /// Standard error, trimmed.
    pub stderr: String,
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// If it cannot be started, or does not exit within `deadline`; it is then killed.
pub fn run(command: &mut Command, input: &str, deadline: Duration) -> Result<Finished, String> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("start {line}: {e}"))?;
    let stdin = child.stdin.take();
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        // A process that does not read its input closes the pipe: not an error.
        stdin.map(|mut pipe| pipe.write_all(input.as_bytes()))
    });
    let status = wait(&mut child, deadline);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let _ = writer.join();
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).trim().to_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(code) => Ok(Finished { code, stdout, stderr }),
        None => Err(format!("{line}: no exit within {deadline:?}; output: {stdout} {stderr}")),
    }
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// The exit code, or `None` when the deadline passes first.
fn wait(child: &mut Child, deadline: Duration) -> Option<Option<i32>> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if start.elapsed() < deadline => thread::sleep(Duration::from_millis(10)),
            _ => return None,
        }
    }
}

/// A process that runs until this is dropped, and the lines of its standard output, with the times at which they
/// were read. Its standard error is that of the test.
pub struct Lines {
    child: Child,
    lines: Receiver<(SystemTime, String)>,
}

impl Lines {
    /// Starts the process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Lines, String> {
        let line = format!("{command:?}");
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("start {line}: {e}"))?;
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take();
        thread::spawn(move || {
            let Some(pipe) = output else { return };
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send((SystemTime::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Lines { child, lines })
    }

    /// The next line that is the right one, and when it was read; `None` if there is none within the deadline, or
    /// the process has ended. Lines before it are skipped.
    pub fn find(
        &self,
        deadline: Duration,
        mut is_right: impl FnMut(&str) -> bool,
    ) -> Option<(SystemTime, String)> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (at, line) = self.lines.recv_timeout(left).ok()?;
            if is_right(&line) {
                return Some((at, line));
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_returned() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo problem >&2; exit 3"]);
        let finished = run(&mut command, "text\n", Duration::from_secs(10)).unwrap();
        assert_eq!(finished.code, Some(3));
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("text", "problem"));
    }

    #[test]
    fn process_past_its_deadline_is_killed() {
        let start = Instant::now();
        let error = run(Command::new("sleep").arg("60"), "", Duration::from_millis(200));
        assert!(error.unwrap_err().contains("no exit within"));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn line_is_found_with_its_time_while_the_process_runs() {
        let start = SystemTime::now();
        let mut command = Command::new("sh");
        let lines =
            Lines::start(command.args(["-c", "echo one; echo two; exec sleep 60"])).unwrap();
        let (at, line) = lines.find(Duration::from_secs(30), |line| line != "one").unwrap();
        assert!(line == "two" && at >= start && at <= SystemTime::now(), "{line} at {at:?}");
        assert!(lines.find(Duration::from_millis(200), |_| true).is_none());
        let ended = Lines::start(Command::new("true").arg("")).unwrap();
        assert!(ended.find(Duration::from_secs(60), |_| true).is_none());
        assert!(start.elapsed().unwrap() < Duration::from_secs(30));
    }
}
