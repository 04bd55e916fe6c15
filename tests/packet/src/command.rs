//! Child processes with a deadline.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Every command of these tests takes milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Standard output of a command.
///
/// # Panics
/// If it cannot be started, fails, or does not exit within 30 seconds.
pub fn output(command: &mut Command) -> String {
    try_output(command, DEADLINE).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a command, whether it succeeds or not, for at most 30 seconds.
pub(crate) fn attempt(command: &mut Command) {
    let _ = try_output(command, DEADLINE);
}

/// Standard output of a command, whose process group is killed at the deadline.
fn try_output(command: &mut Command, deadline: Duration) -> Result<String, String> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{name}: {e}"))?;
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() >= deadline {
            // SAFETY: a call without pointers; the id is the child's until it is waited for.
            unsafe { libc::killpg(child.id() as libc::pid_t, libc::SIGKILL) };
            let _ = child.wait();
            return Err(format!("{name}: killed after {deadline:?}"));
        }
        thread::sleep(POLL);
    };
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() { Ok(stdout) } else { Err(format!("{name}: {status}: {stderr}")) }
}

/// Reads a pipe on a thread of its own: a command blocks when a pipe is full.
fn read(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Result<String, String> {
        try_output(Command::new("sh").args(["-c", script]), deadline)
    }

    #[test]
    fn output_is_stdout_and_an_error_carries_stderr() {
        assert_eq!(shell("echo text", DEADLINE), Ok("text\n".to_owned()));
        let error = shell("echo broken >&2; exit 3", DEADLINE).unwrap_err();
        assert!(error.ends_with("exit status: 3: broken\n"), "{error}");
    }

    #[test]
    fn command_past_its_deadline_is_killed() {
        let error = shell("sleep 600; :", Duration::from_millis(200)).unwrap_err();
        assert!(error.ends_with("killed after 200ms"), "{error}");
    }
}
