//! Changes of an object, each with the time of the API server's answer.
//!
//! The requests pass `kubectl proxy`, which listens on a Unix socket: it has the credentials, and a
//! socket in the file system is reachable from every network namespace.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use crate::clock::now;

/// Longest time of one request.
const DEADLINE: Duration = Duration::from_secs(30);

/// What to write.
#[derive(Args)]
pub struct Options {
    /// Socket of `kubectl proxy`
    #[arg(long)]
    socket: PathBuf,
    /// Path of the object, for example /api/v1/namespaces/default/pods/client
    #[arg(long)]
    object: String,
    /// Merge patches, which take turns
    #[arg(long, required = true)]
    patch: Vec<String>,
    /// Number of writes
    #[arg(long)]
    count: usize,
    /// Time before each write in seconds
    #[arg(long, default_value = "0.3", value_parser = crate::seconds)]
    pause: Duration,
}

/// One write.
#[derive(Serialize)]
pub struct Written {
    /// The clock before the request, in nanoseconds.
    sent_ns: u64,
    /// The clock when the first line of the answer arrived.
    answered_ns: u64,
}

/// Makes the changes, one after the other.
///
/// # Errors
/// When the socket does not answer, or answers with an error.
pub fn run(options: &Options) -> anyhow::Result<Vec<Written>> {
    let mut all = Vec::new();
    for patch in options.patch.iter().cycle().take(options.count) {
        thread::sleep(options.pause);
        all.push(write(&options.socket, &options.object, patch)?);
    }
    Ok(all)
}

fn write(socket: &Path, object: &str, patch: &str) -> anyhow::Result<Written> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let request = format!(
        "PATCH {object} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{patch}",
        patch.len()
    );
    let sent_ns = now();
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).context("answer of the API server")?;
    let answered_ns = now();
    let mut rest = Vec::new();
    answer.read_to_end(&mut rest)?;
    ensure!(
        status.starts_with("HTTP/1.1 200"),
        "PATCH {object}: {status}{}",
        String::from_utf8_lossy(&rest)
    );
    Ok(Written { sent_ns, answered_ns })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that reads one request of this length and answers it.
    fn server(folder: &Path, answer: &'static str) -> (PathBuf, thread::JoinHandle<String>) {
        let socket = folder.join("socket");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = String::new();
            let mut bytes = [0; 1024];
            while !request.ends_with("{}") {
                let length = stream.read(&mut bytes).expect("a request");
                request.push_str(std::str::from_utf8(&bytes[..length]).expect("text"));
            }
            stream.write_all(answer.as_bytes()).expect("written");
            request
        });
        (socket, thread)
    }

    #[test]
    fn a_patch_is_sent_and_an_error_is_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, thread) = server(folder.path(), "HTTP/1.1 200 OK\r\n\r\n{}");
        let written = write(&socket, "/api/v1/pods/a", "{}").expect("answered");
        assert!(written.answered_ns >= written.sent_ns);
        let request = thread.join().expect("a request");
        assert!(request.starts_with("PATCH /api/v1/pods/a HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nContent-Length: 2\r\n"), "{request}");
        let (socket, thread) = server(folder.path(), "HTTP/1.1 403 Forbidden\r\n\r\nno");
        let error = write(&socket, "/api/v1/pods/a", "{}").err().expect("refused");
        assert!(error.to_string().contains("403 Forbidden"), "{error}");
        thread.join().expect("a request");
    }
}
