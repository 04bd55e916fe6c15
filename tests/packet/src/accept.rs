//! Accepting a connection with a deadline.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How often a listener is asked for a connection.
const POLL: Duration = Duration::from_millis(1);

/// Accepts a connection. Its reads and writes have the same deadline.
///
/// # Errors
/// `TimedOut` when no connection arrives before the deadline, or an error of the listener.
pub fn accept(
    listener: &TcpListener,
    deadline: Duration,
) -> Result<(TcpStream, SocketAddr), Error> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(deadline))?;
                stream.set_write_timeout(Some(deadline))?;
                return Ok((stream, from));
            }
            Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
            Err(_) if start.elapsed() >= deadline => return Err(ErrorKind::TimedOut.into()),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_without_a_connection_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = accept(&listener, Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, from) = accept(&listener, Duration::from_secs(5)).unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }
}
