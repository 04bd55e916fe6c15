//! One connection of the matrix: its client, its server, and the address and protocol by which it goes.

use std::fmt::Write;
use std::net::IpAddr;

use sluice_core::model::Protocol;

pub const PORTS: [u16; 2] = [8080, 9090];
/// Name of the pod with the network of its node, in namespace `b`.
pub const HOST: &str = "host";
/// Index of its node in `Grid::nodes`.
pub const HOST_NODE: usize = 1;

/// How a client addresses a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Pod,
    ClusterIp,
    /// The NodePort on an address of the client's node; of node 0 for a client outside.
    OwnNode,
    /// The NodePort on an address of the other node.
    OtherNode,
}

pub const PATHS: [Via; 4] = [Via::Pod, Via::ClusterIp, Via::OwnNode, Via::OtherNode];

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A pod with its Service.
pub struct Server {
    /// `a`.
    pub namespace: &'static str,
    /// `web`.
    pub app: &'static str,
    /// Index of its node in `Grid::nodes`.
    pub node: usize,
    pub address: IpAddr,
    pub cluster_ip: IpAddr,
    /// NodePorts of [`PORTS`], for both protocols.
    pub node_ports: [u16; 2],
}

impl Server {
    /// `a/web`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.app)
    }
}

#[derive(Clone, Copy)]
pub enum Client<'a> {
    Pod(&'a Server),
    /// The pod [`HOST`].
    HostNetwork,
    /// A host outside of the cluster, which reaches NodePorts only.
    Outside,
}

impl Client<'_> {
    /// `a/web`.
    pub fn name(self) -> String {
        match self {
            Client::Pod(pod) => pod.name(),
            Client::HostNetwork => format!("b/{HOST}"),
            Client::Outside => "outside".to_owned(),
        }
    }

    /// Index of its node in `Grid::nodes`.
    fn node(self) -> usize {
        match self {
            Client::Pod(pod) => pod.node,
            Client::HostNetwork => HOST_NODE,
            Client::Outside => 0,
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub client: Client<'a>,
    pub server: &'a Server,
    pub port: u16,
    pub protocol: Protocol,
    pub via: Via,
}

impl Probe<'_> {
    /// `a/web to b/db:8080/TCP by Pod`.
    pub fn key(&self) -> String {
        let (client, server) = (self.client.name(), self.server.name());
        format!("{client} to {server}:{}/{} by {:?}", self.port, self.protocol, self.via)
    }

    /// Not a pod to itself, and nothing that has no route.
    pub fn is_possible(&self) -> bool {
        match self.client {
            Client::Pod(pod) => pod.address != self.server.address,
            Client::HostNetwork => true,
            Client::Outside => matches!(self.via, Via::OwnNode | Via::OtherNode),
        }
    }

    /// NodePort of the server's port.
    pub fn node_port(&self) -> u16 {
        let at = PORTS.iter().position(|port| *port == self.port).unwrap();
        self.server.node_ports[at]
    }

    /// Index of the node whose NodePort it uses; of the client's node on the other paths.
    pub fn node(&self) -> usize {
        match self.via {
            Via::OtherNode => 1 - self.client.node(),
            _ => self.client.node(),
        }
    }
}

/// A script of bash that sends a request to each target at the same time, and prints a line for each: protocol,
/// target and exit code.
pub fn script<'a>(targets: impl Iterator<Item = (Protocol, &'a str)>) -> String {
    let (mut udp, mut tcp) = (String::new(), String::new());
    for (protocol, target) in targets {
        let _ = match protocol {
            Protocol::Udp => writeln!(udp, "(udp {target} {}) &", target.replace(':', "/")),
            _ => write!(tcp, " -o /dev/null {target}"),
        };
    }
    format!(
        "udp() {{
  exec 3<>/dev/udp/$2 && echo hostname >&3 && read -r -t 2 -n 1 -u 3 _
  echo \"UDP $1 $?\"
}}
{udp}curl -sZ --parallel-immediate --parallel-max 100 -m 2 -w 'TCP %{{url}} %{{exitcode}}\\n'{tcp} 2>/dev/null
wait
"
    )
}

/// Whether a connection passes, by the exit code in the output of [`script`].
///
/// # Errors
/// If there was neither a response nor silence: what policies deny is dropped, not refused.
pub fn passes(protocol: Protocol, code: &str) -> Result<bool, String> {
    match (protocol, code.parse::<u32>()) {
        (_, Ok(0)) => Ok(true),
        // The time-outs of curl, and of `read` in bash.
        (Protocol::Tcp, Ok(28)) | (Protocol::Udp, Ok(129..)) => Ok(false),
        _ => Err(format!("neither a response nor a time-out: exit code {code}")),
    }
}
