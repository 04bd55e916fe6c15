//! The server side of the socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::request::{Call, Request};

/// Longest question in bytes.
const MAX_QUESTION: u64 = 4096;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens at `path` and hands every question to the event loop.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve<E: Send + 'static>(
    path: &Path,
    events: mpsc::Sender<E>,
    event: fn(Call) -> E,
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
    event: fn(Call) -> E,
) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_QUESTION)).read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let (answer, wait) = oneshot::channel();
            if events.send(event(Call { request, answer })).await.is_err() {
                return Ok(());
            }
            wait.await.unwrap_or_default()
        }
        Err(e) => serde_json::json!({ "error": e.to_string() }).to_string(),
    };
    stream.write_all(reply.as_bytes()).await?;
    stream.write_all(b"\n").await
}
