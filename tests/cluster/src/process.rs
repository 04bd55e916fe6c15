//! Child processes with a deadline.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
}
