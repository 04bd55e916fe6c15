//! The client side of the socket.

use std::path::Path;
use std::time::Duration;

use super::request::Request;

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the agent that listens at `path`. Blocking; for the command line.
///
/// # Errors
/// NotFound or ConnectionRefused when no agent runs.
pub fn call(path: &Path, request: &Request) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut question = serde_json::to_string(request)?;
    question.push('\n');
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
