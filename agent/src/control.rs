//! The socket by which the command line asks the running agent.
//!
//! One connection, one question: a line of JSON with a [`Request`] in, a line of JSON out. The
//! socket belongs to root alone. Answers come from the event loop, the only owner of state.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::dataplane::counters::Count;

/// Where the agent listens.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

/// Longest question in bytes.
const MAX_QUESTION: u64 = 4096;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// A [`Status`].
    Status,
    /// A list of [`ServiceRow`].
    Services,
}

/// How the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent; empty when it is away.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Where objects come from.
    pub source: String,
    /// Whether pods can be wired.
    pub ready: bool,
    /// Whether every list has arrived.
    pub synced: bool,
    /// Name of the uplink.
    pub uplink: Option<String>,
    /// The node's address on it.
    pub address: Option<String>,
    /// MTU of new pods in bytes.
    pub mtu: Option<u32>,
    /// The node's own pod ranges.
    pub pod_cidrs: Vec<String>,
    /// Rows per table.
    pub tables: Vec<(String, usize)>,
    /// What is wrong now, each in one line.
    pub problems: Vec<String>,
    /// What became of packets.
    pub counters: Vec<Count>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// `namespace/name`, or `-` when only the kernel could be asked.
    pub service: String,
    /// Name of the port.
    pub port_name: String,
    /// Address that clients use.
    pub address: String,
    /// Port that clients use.
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// `address:port` of each backend.
    pub backends: Vec<String>,
}

/// A question on its way to the event loop.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub request: Request,
    /// Where the JSON goes.
    pub answer: oneshot::Sender<String>,
}

/// Listens at `path` and hands every question to the event loop.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve<E: Send + 'static>(
    path: &Path,
    events: mpsc::Sender<E>,
    event: fn(Question) -> E,
) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // Left over by an agent that was killed.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let events = events.clone();
                    tokio::spawn(async move {
                        let _ =
                            tokio::time::timeout(PATIENCE, converse(stream, events, event)).await;
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "command line socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn converse<E>(
    mut stream: UnixStream,
    events: mpsc::Sender<E>,
    event: fn(Question) -> E,
) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_QUESTION)).read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let (answer, wait) = oneshot::channel();
            if events.send(event(Question { request, answer })).await.is_err() {
                return Ok(());
            }
            wait.await.unwrap_or_default()
        }
        Err(e) => serde_json::json!({ "error": e.to_string() }).to_string(),
    };
    stream.write_all(reply.as_bytes()).await?;
    stream.write_all(b"\n").await
}

/// Asks the agent that listens at `path`. Blocking; for the command line.
///
/// # Errors
/// NotFound or ConnectionRefused when no agent runs.
pub fn ask(path: &Path, request: &Request) -> std::io::Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_question_gets_its_answer_and_nonsense_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/s.sock");
        let (events, mut questions) = mpsc::channel(1);
        serve(&path, events, |q: Question| q).unwrap();
        tokio::spawn(async move {
            while let Some(q) = questions.recv().await {
                let _ = q.answer.send(format!("\"{:?}\"", q.request));
            }
        });
        let asked = path.clone();
        let answer =
            tokio::task::spawn_blocking(move || ask(&asked, &Request::Services)).await.unwrap();
        assert_eq!(answer.unwrap().trim(), "\"Services\"");
        let mut raw = UnixStream::connect(&path).await.unwrap();
        raw.write_all(b"hello\n").await.unwrap();
        let mut text = String::new();
        raw.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("{\"error\":"), "{text}");
    }
}
