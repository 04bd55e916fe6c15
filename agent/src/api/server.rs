//! Server side: accepts connections, parses one request each and streams the response.
//!
//! Every wait has a deadline, so that neither a client nor a busy event loop keeps a connection
//! open: a client that does not send its request, or does not read a page in time, is disconnected.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::VERSION;
use super::request::{self, MAX_REQUEST, Request, RequestError};
use super::respond::{Call, Cursor, Page, Row};
use super::response::{Header, Line};

/// Mode of the socket: connecting requires the write permission.
const MODE: u32 = 0o600;

/// Pause after a failed accept, which usually means that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of the server.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Open connections; further ones wait in the backlog.
    pub connections: usize,
    /// Time until the request line is complete.
    pub request: Duration,
    /// Time until the event loop answers.
    pub answer: Duration,
    /// Time until the client has read a page.
    pub write: Duration,
    /// User that may connect.
    pub uid: u32,
}

/// Why a response ends without its last row.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("user {0} is not permitted to use the agent's API; run the command as root")]
    Forbidden(u32),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("no complete request line within {0:?}")]
    RequestTimeout(Duration),
    #[error("agent is busy: no answer within {0:?}; retry, and see the agent's log")]
    Busy(Duration),
    #[error("agent is stopping")]
    Stopping,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection with the lines that are not written yet.
struct Response {
    stream: UnixStream,
    pending: Vec<u8>,
    write: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16,
            request: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            write: Duration::from_secs(10),
            uid: 0,
        }
    }
}

impl ServeError {
    fn code(&self) -> &'static str {
        match self {
            ServeError::Forbidden(_) => "forbidden",
            ServeError::Request(e) => e.code(),
            ServeError::RequestTimeout(_) => "timeout",
            ServeError::Busy(_) => "busy",
            ServeError::Stopping => "stopping",
            ServeError::Io(_) => "io",
        }
    }
}

impl Response {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.pending, line)?;
        self.pending.push(b'\n');
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        timeout(self.write, self.stream.write_all(&self.pending)).await??;
        self.pending.clear();
        Ok(())
    }
}

/// Listens at `path`; each [`Call`] reaches the owner of the state as an event.
///
/// # Errors
/// The socket or its directory cannot be created.
pub fn serve<E: Send + 'static>(
    path: &Path,
    events: mpsc::Sender<E>,
    event: fn(Call) -> E,
) -> io::Result<()> {
    serve_with(Limits::default(), path, events, event)
}

pub(super) fn serve_with<E: Send + 'static>(
    limits: Limits,
    path: &Path,
    events: mpsc::Sender<E>,
    event: fn(Call) -> E,
) -> io::Result<()> {
    let listener = listen(path)?;
    let permits = Arc::new(Semaphore::new(limits.connections));
    tokio::spawn(async move {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (limits, events) = (limits.clone(), events.clone());
                    tokio::spawn(async move {
                        if let Err(e) = handle(stream, &limits, &events, event).await {
                            tracing::debug!(error = %e, "API request failed, connection closed");
                        }
                        drop(permit);
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "API socket: accept failed, retrying");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

/// A listening socket at `path`; one that a killed agent left there is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Serves one connection. An error is also the last line of the response, unless it is the
/// connection that failed.
async fn handle<E>(
    stream: UnixStream,
    limits: &Limits,
    events: &mpsc::Sender<E>,
    event: fn(Call) -> E,
) -> Result<(), ServeError> {
    let mut response = Response { stream, pending: Vec::new(), write: limits.write };
    response.line(&Header { version: VERSION, agent: env!("CARGO_PKG_VERSION").to_owned() })?;
    let result = respond(&mut response, limits, events, event).await;
    match &result {
        Ok(end) => response.line(end)?,
        Err(ServeError::Io(_)) => return result.map(drop),
        Err(e) => response
            .line(&Line::<Row>::Error { code: e.code().to_owned(), message: e.to_string() })?,
    }
    response.flush().await?;
    result.map(drop)
}

/// Writes the rows and returns the last line.
async fn respond<E>(
    response: &mut Response,
    limits: &Limits,
    events: &mpsc::Sender<E>,
    event: fn(Call) -> E,
) -> Result<Line<Row>, ServeError> {
    let uid = response.stream.peer_cred()?.uid();
    if uid != limits.uid {
        return Err(ServeError::Forbidden(uid));
    }
    let request = timeout(limits.request, read_request(&mut response.stream))
        .await
        .map_err(|_| ServeError::RequestTimeout(limits.request))??;
    let request = Arc::new(request);
    let mut after = None;
    let mut count = 0;
    loop {
        let next_page = next_page(&request, after, events, event);
        let page = timeout(limits.answer, next_page)
            .await
            .map_err(|_| ServeError::Busy(limits.answer))??;
        count += page.rows.len();
        for row in page.rows {
            response.line(&Line::Row(row))?;
        }
        response.flush().await?;
        after = page.next;
        if after.is_none() {
            return Ok(Line::End { count, drops: page.drops });
        }
    }
}

async fn read_request(stream: &mut UnixStream) -> Result<Request, ServeError> {
    let mut line = Vec::new();
    // The byte after the longest request is its newline, or shows that the line is too long.
    let limit = MAX_REQUEST as u64 + 1;
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line).await?;
    Ok(request::parse(&line)?)
}

async fn next_page<E>(
    request: &Arc<Request>,
    after: Option<Cursor>,
    events: &mpsc::Sender<E>,
    event: fn(Call) -> E,
) -> Result<Page, ServeError> {
    let (reply, page) = oneshot::channel();
    let call = Call { request: Arc::clone(request), after, reply };
    events.send(event(call)).await.map_err(|_| ServeError::Stopping)?;
    page.await.map_err(|_| ServeError::Stopping)
}
