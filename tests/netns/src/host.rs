//! A host: a network namespace, and the cgroup whose sockets the node's agent serves.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::binaries::own_program;
use crate::capture::Capture;
use crate::cgroup::Cgroup;
use crate::peer::{Echo, Exchange, RateReport};
use crate::process::{command_deadline, run};
use crate::{Namespaces, Process, Server};

/// Deadline of an ICMP echo reply.
const ECHO: Duration = Duration::from_secs(2);
/// Time limit of a response to a client that repeats its request.
const HOLD: Duration = Duration::from_secs(10);

/// Runs servers and clients in a node, a pod or the host outside the cluster.
#[derive(Clone, Debug)]
pub struct Host {
    namespaces: Namespaces,
    cgroup: Option<Arc<Cgroup>>,
}

impl Host {
    pub(crate) fn in_cgroup(namespaces: &Namespaces, cgroup: &Arc<Cgroup>) -> Host {
        Host { namespaces: namespaces.clone(), cgroup: Some(cgroup.clone()) }
    }

    /// A host outside of every agent's cgroup, such as a router.
    pub fn of(namespaces: &Namespaces) -> Host {
        Host { namespaces: namespaces.clone(), cgroup: None }
    }

    /// The same host with programs outside the agent's cgroup: the socket programs do not see
    /// their sockets, and the tc programs translate their packets.
    pub fn without_socket_programs(&self) -> Host {
        Host { namespaces: self.namespaces.clone(), cgroup: None }
    }

    /// Both variants with a name for messages: with socket programs, and without.
    pub fn both_paths(&self) -> [(&'static str, Host); 2] {
        [("socket programs", self.clone()), ("tc programs", self.without_socket_programs())]
    }

    /// The namespaces of the host.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespaces.command(own_program("netns-peer"));
        if let Some(cgroup) = &self.cgroup {
            cgroup.adopt(&mut command, "pods");
        }
        command.args(arguments);
        command
    }

    /// Starts a server called `name` on ports like `tcp:80` or `udp:53`.
    pub fn serve(&self, name: &str, ports: &[&str]) -> Server {
        let mut arguments = vec!["serve", name];
        arguments.extend(ports);
        let mut process = Process::start(&mut self.command(&arguments));
        assert_eq!(process.line(), "ready");
        Server(process)
    }

    /// Sends one request. `protocol`: `tcp`, `udp` (unconnected socket) or `udp-connected`.
    pub fn connect(&self, protocol: &str, server: &str) -> Exchange {
        self.connect_with(protocol, server, &[]).remove(0)
    }

    /// Sends `times` requests, each from a new socket.
    pub fn connect_times(&self, protocol: &str, server: &str, times: usize) -> Vec<Exchange> {
        self.connect_with(protocol, server, &["--times", &times.to_string()])
    }

    /// Sends requests with `--times N`, `--from PORT` (source port), `--size BYTES` (UDP, request
    /// and response), `--deadline-ms N`.
    pub fn connect_with(&self, protocol: &str, server: &str, options: &[&str]) -> Vec<Exchange> {
        let mut arguments = vec!["connect", protocol, server];
        arguments.extend(options);
        self.run(&arguments)
    }

    /// Sends one request to each server from one unconnected UDP socket, then receives: server
    /// name and source address of each response, in the order of the requests.
    pub fn connect_each(&self, servers: &[String]) -> Vec<(String, String)> {
        let mut arguments = vec!["connect-each"];
        arguments.extend(servers.iter().map(String::as_str));
        self.run(&arguments)
    }

    /// Sends an ICMP echo request with `size` bytes of data.
    pub fn ping(&self, address: &str, size: usize) -> Echo {
        self.ping_within(address, size, ECHO)
    }

    /// [`Host::ping`] with another deadline of the reply.
    pub fn ping_within(&self, address: &str, size: usize, deadline: Duration) -> Echo {
        self.run(&["ping", address, &size.to_string(), &deadline.as_millis().to_string()])
    }

    /// Downloads `bytes` from a server by TCP; how many arrived, or the error.
    pub fn download(&self, server: &str, bytes: usize) -> Result<usize, String> {
        self.run(&["download", server, &bytes.to_string()])
    }

    /// Uploads `bytes` to a server by TCP; how many the server received, or the error.
    pub fn upload(&self, server: &str, bytes: usize) -> Result<usize, String> {
        self.run(&["upload", server, &bytes.to_string()])
    }

    /// Repeats a request until [`Process::finish`], which returns a
    /// [`HoldReport`](crate::peer::HoldReport). `protocol`: `tcp` (one connection), `connect` (one
    /// connection for each request), `udp` (one unconnected socket) or `udp-connected` (one
    /// socket, replaced only when the kernel aborts it). Returns after the first response.
    pub fn hold(&self, protocol: &str, server: &str) -> Process {
        self.hold_within(protocol, server, HOLD)
    }

    /// [`Host::hold`] with another time limit of a response on an open connection, and of the response that
    /// [`Process::finish_after`] waits for.
    pub fn hold_within(&self, protocol: &str, server: &str, limit: Duration) -> Process {
        let limit = limit.as_millis().to_string();
        let mut process = Process::start(&mut self.command(&["hold", protocol, server, &limit]));
        assert_eq!(process.line(), "holding");
        process
    }

    /// Sends without waiting for answers until [`Process::finish`], which returns a
    /// [`SprayReport`](crate::peer::SprayReport): datagrams from `port` and from new ports to `udp`, and
    /// first segments of connections to `tcp`. The host may have no interface yet. A number as line of input
    /// ([`Process::write_line`]) asks for the line `sprayed` after more than so many attempts of each kind.
    pub fn spray(&self, port: u16, udp: &str, tcp: &str) -> Process {
        let arguments = ["spray", &port.to_string(), udp, tcp];
        let mut process = Process::start(&mut self.command(&arguments));
        assert_eq!(process.line(), "spraying");
        process
    }

    /// Sends `rate` UDP requests a second, each from a new socket, for so many seconds.
    pub fn resolve(&self, server: &str, rate: u32, seconds: u32) -> RateReport {
        let deadline = command_deadline() + Duration::from_secs(seconds.into());
        let arguments = ["resolve", server, &rate.to_string(), &seconds.to_string()];
        self.run_within(&arguments, deadline)
    }

    /// Sends a UDP datagram with this source address.
    pub fn send_from(&self, source: &str, destination: &str) {
        let (): () = self.run(&["send-from", source, destination]);
    }

    /// Sends a UDP datagram with this source address to the router `by`, which its IP option for a loose
    /// source route asks to send it on to `destination`, to the same port.
    pub fn send_routed(&self, source: &str, by: &str, destination: &str) {
        let (): () = self.run(&["send-from", source, by, destination]);
    }

    /// Sends an Ethernet frame by a device.
    pub fn send_frame(&self, device: &str, frame: &[u8]) {
        let digits: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let (): () = self.run(&["send-frame", device, &digits]);
    }

    /// Receives UDP datagrams on `port`; each line of output is the source address of one.
    pub fn receive(&self, port: u16) -> Process {
        let mut process = Process::start(&mut self.command(&["receive", &port.to_string()]));
        assert_eq!(process.line(), "ready");
        process
    }

    /// Captures the IPv4 packets of a device.
    pub fn capture(&self, device: &str, file: &std::path::Path) -> Capture {
        let file = file.to_owned();
        let mut process = Process::start(
            self.namespaces.command(own_program("netns-peer")).args(["capture", device]).arg(&file),
        );
        assert_eq!(process.line(), "ready");
        Capture::new(process, file)
    }

    #[track_caller]
    fn run<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        // A client of many requests may wait for each of them.
        self.run_within(arguments, command_deadline() * 2)
    }

    fn run_within<T: DeserializeOwned>(&self, arguments: &[&str], deadline: Duration) -> T {
        let output = run(&mut self.command(arguments), deadline)
            .unwrap_or_else(|e| panic!("netns-peer {arguments:?}: {e}"));
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| {
            panic!(
                "netns-peer {arguments:?}: {e}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }
}
