//! What runs inside nodes, pods and the host outside: servers that say who they are, clients that
//! tell what they got. The program is `src/bin/netns-peer`; this is its driver and the words they
//! share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::{Namespaces, Process, Server};

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the server.
    pub who: String,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server's own address as its socket has it; unspecified for UDP.
    pub server: SocketAddr,
}

/// What a client got: the answer with the address it came from as the client's socket has it, or
/// the name of a `std::io::ErrorKind`.
pub type Asked = Result<(Answer, SocketAddr), String>;

/// What an ICMP echo request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pinged {
    /// A reply with this many bytes of data, all as they were sent.
    Reply(usize),
    /// An ICMP error of this type and code.
    Error(u8, u8),
    /// Nothing within a second.
    Nothing,
}

/// How a client fared that went on for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Requests that were answered.
    pub rounds: u64,
    /// The longest that one took, in milliseconds.
    pub longest_ms: u64,
    /// Names of the servers that answered, in the order of their first answer.
    pub servers: Vec<String>,
    /// Requests that failed (each with the name of its error); a TCP connection fails once.
    pub failed: Vec<String>,
}

/// A place where programs run: a network namespace, and the cgroup whose sockets a node's agent
/// serves.
#[derive(Clone, Debug)]
pub struct Place {
    spaces: Namespaces,
    cgroup: Option<Arc<Cgroup>>,
}

impl Place {
    pub(crate) fn hooked(spaces: &Namespaces, cgroup: &Arc<Cgroup>) -> Place {
        Place { spaces: spaces.clone(), cgroup: Some(cgroup.clone()) }
    }

    /// The same place, with sockets that the socket programs do not see: what they do is left to
    /// the packet path.
    pub fn without_hooks(&self) -> Place {
        Place { spaces: self.spaces.clone(), cgroup: None }
    }

    /// Its namespaces.
    pub fn spaces(&self) -> &Namespaces {
        &self.spaces
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.spaces.command(program());
        if let Some(cgroup) = &self.cgroup {
            cgroup.adopt(&mut command, "pods");
        }
        command.args(arguments);
        command
    }

    /// A server called `name` on ports like `tcp:80` or `udp:53`.
    pub fn serve(&self, name: &str, ports: &[&str]) -> Server {
        let mut arguments = vec!["serve", name];
        arguments.extend(ports);
        let mut process = Process::start(&mut self.command(&arguments));
        assert_eq!(process.line(), "ready");
        Server(process)
    }

    /// Asks once. `how`: `tcp`, `udp` (unconnected) or `udp-connected`.
    pub fn ask(&self, how: &str, server: &str) -> Asked {
        self.ask_with(how, server, &[]).remove(0)
    }

    /// Asks `times` times, each time with a new socket.
    pub fn ask_times(&self, how: &str, server: &str, times: usize) -> Vec<Asked> {
        self.ask_with(how, server, &["--times", &times.to_string()])
    }

    /// Asks with `--times N`, `--from PORT` (source port), `--size BYTES` (UDP, both ways).
    pub fn ask_with(&self, how: &str, server: &str, options: &[&str]) -> Vec<Asked> {
        let mut arguments = vec!["ask", how, server];
        arguments.extend(options);
        self.once(&arguments)
    }

    /// An ICMP echo request with `size` bytes of data.
    pub fn ping(&self, address: &str, size: usize) -> Pinged {
        self.once(&["ping", address, &size.to_string()])
    }

    /// Receives `bytes` from a server by TCP; how many came, or the error.
    pub fn download(&self, server: &str, bytes: usize) -> Result<usize, String> {
        self.once(&["download", server, &bytes.to_string()])
    }

    /// Sends `bytes` to a server by TCP; how many it says it got, or the error.
    pub fn upload(&self, server: &str, bytes: usize) -> Result<usize, String> {
        self.once(&["upload", server, &bytes.to_string()])
    }

    /// Goes on asking until [`Process::finish`], which gives a [`Held`]. `how`: `tcp` (one
    /// connection), `connect` (a connection for each request), `udp` (one unconnected socket) or
    /// `udp-connected`. Returns after the first answer.
    pub fn hold(&self, how: &str, server: &str) -> Process {
        let mut process = Process::start(&mut self.command(&["hold", how, server]));
        assert_eq!(process.line(), "holding");
        process
    }

    /// Sends a UDP datagram with a source of one's own choice.
    pub fn spoof(&self, source: &str, destination: &str) {
        let _: () = self.once(&["spoof", source, destination]);
    }

    /// Writes the sender of each UDP datagram to `port` as a line.
    pub fn collect(&self, port: u16) -> Process {
        let mut process = Process::start(&mut self.command(&["collect", &port.to_string()]));
        assert_eq!(process.line(), "ready");
        process
    }

    fn once<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let mut command = self.command(arguments);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.unwrap_or_else(|e| panic!("{}: {e}", program().display()));
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }
}

/// cargo puts the programs of a crate beside its tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    folder.join("netns-peer")
}
