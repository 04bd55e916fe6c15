//! Client side, blocking, for the command line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;

use super::VERSION;
use super::drops::DropsEnd;
use super::request::Request;
use super::response::{Header, Line};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent listens.
    #[error(
        "agent is not running (connect {path}: {source}); see `kubectl -n sluice-system get pods`, \
         or give its socket with --agent-socket"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why connecting failed.
        #[source]
        source: io::Error,
    },
    /// Connecting is refused to this user.
    #[error("connect {path}: permission denied; run the command as root")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The response was not complete in time.
    #[error("agent did not complete the response within {0:?}; retry, and see the agent's log")]
    Timeout(Duration),
    /// The agent uses another version of the protocol.
    #[error(
        "agent {agent} uses API version {version}, this binary ({binary}) uses version {VERSION}; \
         use the `sluice` binary of the agent's image",
        binary = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Version of the agent.
        agent: String,
        /// Its version of the protocol.
        version: u32,
    },
    /// The agent reports an error.
    #[error("agent: {message}")]
    Agent {
        /// Name of the error for programs.
        code: String,
        /// Its text.
        message: String,
    },
    /// The connection ended before the last line.
    #[error("agent closed the connection before the end of the response; retry")]
    Incomplete,
    /// A line is not valid.
    #[error("response of the agent is not valid: {0}")]
    Malformed(String),
    /// The connection failed.
    #[error("connection to the agent")]
    Io(#[source] io::Error),
}

/// Rows of a response, read as they arrive. Ends after the last row, or after the first error.
#[derive(Debug)]
pub struct Rows<R> {
    lines: BufReader<Timed>,
    timeout: Duration,
    count: usize,
    ended: bool,
    drops: DropsEnd,
    row: PhantomData<fn() -> R>,
}

/// A stream whose reads and writes fail after a common deadline.
#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl ClientError {
    /// Whether no answer of an agent was received, so that other sources may be used instead.
    pub fn agent_is_unavailable(&self) -> bool {
        matches!(self, ClientError::NotRunning { .. } | ClientError::Timeout(_))
    }
}

impl<R: DeserializeOwned> Rows<R> {
    /// All rows, and, of dropped packets, the end of the response.
    ///
    /// # Errors
    /// The agent reports an error, or its response is not complete.
    pub fn with_end(mut self) -> Result<(Vec<R>, DropsEnd), ClientError> {
        let rows = self.by_ref().collect::<Result<_, _>>()?;
        Ok((rows, self.drops))
    }

    fn next_row(&mut self) -> Result<Option<R>, ClientError> {
        match self.line()? {
            Line::Row(row) => {
                self.count += 1;
                Ok(Some(row))
            }
            Line::End { count, drops } if count == self.count => {
                self.drops = drops;
                Ok(None)
            }
            Line::End { count, .. } => Err(ClientError::Malformed(format!(
                "{count} rows are announced, {} were received",
                self.count
            ))),
            Line::Error { code, message } => Err(ClientError::Agent { code, message }),
        }
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut line = Vec::new();
        self.lines.read_until(b'\n', &mut line).map_err(|e| failed(e, self.timeout))?;
        if line.last() != Some(&b'\n') {
            return Err(ClientError::Incomplete);
        }
        serde_json::from_slice(&line).map_err(|e| ClientError::Malformed(e.to_string()))
    }
}

impl<R: DeserializeOwned> Iterator for Rows<R> {
    type Item = Result<R, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_row().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends `request` to the agent that listens at `path`. The response has to be complete after
/// `timeout`.
///
/// # Errors
/// No agent listens, it rejects the request, or it uses another version of the protocol. Further
/// errors are items of the returned iterator.
pub fn call<R: DeserializeOwned>(
    path: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Rows<R>, ClientError> {
    let deadline = Instant::now() + timeout;
    let stream = connect(path, timeout).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { path: path.to_owned(), source }
        }
        io::ErrorKind::PermissionDenied => ClientError::Permission { path: path.to_owned() },
        _ => failed(source, timeout),
    })?;
    let mut stream = Timed { stream, deadline };
    match stream.write_all(request.to_line().as_bytes()) {
        // The agent rejected the connection; the response contains the reason.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.map_err(|e| failed(e, timeout))?,
    }
    let lines = BufReader::new(stream);
    let mut rows = Rows {
        lines,
        timeout,
        count: 0,
        ended: false,
        drops: DropsEnd::default(),
        row: PhantomData,
    };
    let header: Header = rows.line()?;
    if header.version != VERSION {
        return Err(ClientError::Version { agent: header.agent, version: header.version });
    }
    Ok(rows)
}

/// Connects within `timeout`: connect(2) waits while the backlog of the listener is full.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket: OwnedFd =
        socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(timeout.as_secs() as i64, i64::from(timeout.subsec_micros()));
    setsockopt(&socket, SendTimeout, &limit)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

fn failed(error: io::Error, timeout: Duration) -> ClientError {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ClientError::Timeout(timeout),
        // The agent closed the connection without reading the whole request.
        io::ErrorKind::ConnectionReset => ClientError::Incomplete,
        _ => ClientError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, bind, listen, socket};
    use serde_json::Value;

    use super::*;

    /// Deadline of everything that should succeed.
    const WAIT: Duration = Duration::from_secs(30);
    /// Deadline that expires during a test.
    const SHORT: Duration = Duration::from_millis(50);

    /// A server that answers every request with `response`, and the result of a client.
    fn client_of(response: &'static str) -> Result<Vec<Value>, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        });
        let result = call(&path, &Request::Status {}, WAIT).and_then(Iterator::collect);
        server.join().unwrap();
        result
    }

    #[test]
    fn client_rejects_a_response_that_is_not_complete() {
        let ok = "{\"version\":1,\"agent\":\"x\"}\n{\"row\":1}\n{\"end\":{\"count\":1}}\n";
        assert_eq!(client_of(ok).unwrap(), [Value::from(1)]);
        for (response, want) in [
            ("", "closed the connection before the end"),
            (
                "{\"version\":1,\"agent\":\"x\"}\n{\"row\":1}\n",
                "closed the connection before the end",
            ),
            (
                "{\"version\":1,\"agent\":\"x\"}\n{\"row\":1}\n{\"end\":{\"count\":2}}\n",
                "2 rows are",
            ),
            ("{\"version\":1,\"agent\":\"x\"}\nhello\n", "not valid"),
            (
                "{\"version\":3,\"agent\":\"9.9\"}\n",
                "agent 9.9 uses API version 3, this binary (0.1.0) uses version 1",
            ),
        ] {
            let e = client_of(response).unwrap_err();
            assert!(e.to_string().contains(want), "{response:?}: {e}");
            assert!(!e.agent_is_unavailable(), "{e}");
        }
    }

    #[test]
    fn client_without_an_agent_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let e = call::<Value>(&missing, &Request::Status {}, WAIT).unwrap_err();
        assert!(e.agent_is_unavailable());
        let text = e.to_string();
        assert!(text.contains("not running") && text.contains("kubectl"), "{text}");
        // A socket file without a listener, as a killed agent leaves it.
        let stale = dir.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(
            call::<Value>(&stale, &Request::Status {}, WAIT).unwrap_err().agent_is_unavailable()
        );
    }

    #[test]
    fn client_gives_up_at_its_deadline() {
        let expires = |path: &Path| {
            let start = Instant::now();
            let e = call::<Value>(path, &Request::Status {}, SHORT).unwrap_err();
            assert!(matches!(e, ClientError::Timeout(SHORT)), "{e:?}");
            assert!(e.agent_is_unavailable() && start.elapsed() < WAIT);
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&socket, Backlog::new(0).unwrap()).unwrap();
        // Connected, but nothing answers.
        expires(&path);
        // The first connection fills the backlog, so connect(2) waits.
        expires(&path);
    }
}
