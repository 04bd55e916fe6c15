//! Results that `src/bin/netns-peer` writes and [`crate::Host`] reads.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Response of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Name of the server.
    pub server: String,
    /// The client's address as the server observes it.
    pub client: SocketAddr,
    /// The server's own address as its socket has it; unspecified for UDP.
    pub local: SocketAddr,
}

/// Outcome of one request: the response with the peer address of the client's socket, or the name
/// of a `std::io::ErrorKind`.
pub type Exchange = Result<(Response, SocketAddr), String>;

/// Outcome of an ICMP echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Echo {
    /// A reply with this many bytes of data, equal to those of the request.
    Reply(usize),
    /// An ICMP error of this type and code.
    Error(u8, u8),
    /// Nothing within the deadline.
    Timeout,
}

/// ICMP host unreachable, which is also what a route of type `unreachable` gives local sockets.
pub const HOST_UNREACHABLE: Echo = Echo::Error(3, 1);

/// How long a test waits for an ICMP echo reply that must not arrive.
pub const UNANSWERED: Duration = Duration::from_millis(500);

/// Report of a client that repeated its request for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Requests that had a response.
    pub responses: u64,
    /// The longest time that one took, in milliseconds.
    pub longest_ms: u64,
    /// Names of the servers, in the order of their first response.
    pub servers: Vec<String>,
    /// Names of the errors of failed requests; a TCP connection fails once.
    pub errors: Vec<String>,
}

/// Report of a client with a new socket for each request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateReport {
    /// Requests that were sent.
    pub requests: u64,
    /// Requests without a response.
    pub lost: u64,
    /// Time in which they were sent.
    pub seconds: f64,
}

/// Report of a client that sends without waiting for answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SprayReport {
    /// Datagrams from one socket.
    pub same_socket: u64,
    /// Datagrams from a new socket each.
    pub new_sockets: u64,
    /// First segments of TCP connections.
    pub connections: u64,
}

impl SprayReport {
    /// The least of the three numbers.
    pub fn least(&self) -> u64 {
        self.same_socket.min(self.new_sockets).min(self.connections)
    }
}
