//! Pods in two namespaces and on two nodes, each with a Service, and who reaches whom by which address.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use cluster_tests::{
    AGNHOST, Namespace, Node, eventually, kubectl, kubectl_json, objects, try_kubectl, workers,
};
use sluice_core::model::Object;
use sluice_core::oracle::{Cluster, NewFlow, Sandbox, Side, allows, side_allows};

use crate::PROGRAMMED;

pub const NAMESPACES: [&str; 2] = ["a", "b"];
const APPS: [&str; 2] = ["web", "db"];
pub const PORTS: [u16; 2] = [8080, 9090];
const TCP: u8 = 6;

/// How a client addresses a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Pod,
    ClusterIp,
    /// The NodePort on an address of the client's node.
    OwnNode,
    /// The NodePort on an address of the other node.
    OtherNode,
}

pub const PATHS: [Via; 4] = [Via::Pod, Via::ClusterIp, Via::OwnNode, Via::OtherNode];

/// A pod with its Service.
pub struct Server {
    /// `a`.
    pub namespace: &'static str,
    /// `web`.
    pub app: &'static str,
    /// Index of its node in [`Grid::nodes`].
    node: usize,
    pub address: IpAddr,
    cluster_ip: IpAddr,
    /// NodePorts of [`PORTS`].
    node_ports: [u16; 2],
}

impl Server {
    /// `a/web`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.app)
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub client: &'a Server,
    pub server: &'a Server,
    pub port: u16,
    pub via: Via,
}

impl Probe<'_> {
    /// `a/web to b/db:8080 by Pod`.
    pub fn key(&self) -> String {
        let (client, server) = (self.client.name(), self.server.name());
        format!("{client} to {server}:{} by {:?}", self.port, self.via)
    }

    /// NodePort of the server's port.
    fn node_port(&self) -> u16 {
        let at = PORTS.iter().position(|port| *port == self.port).unwrap();
        self.server.node_ports[at]
    }
}

/// Whether a client reaches a server, by [`Probe::key`].
pub type Matrix = BTreeMap<String, bool>;

/// Namespaces, pods and Services.
pub struct Grid {
    namespaces: [Namespace; 2],
    nodes: [Node; 2],
    pub servers: Vec<Server>,
}

fn pod(app: &str, node: &str, http: u16) -> String {
    let container = |port: u16| {
        let named = if port == http { "[{name: http, containerPort: PORT}]" } else { "[]" };
        format!(
            "    - {{name: p{port}, image: {AGNHOST}, imagePullPolicy: IfNotPresent,
       command: [/agnhost, netexec, --http-port={port}, --udp-port=-1], ports: {named}}}\n"
        )
        .replace("PORT", &port.to_string())
    };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {app}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  tolerations: [{{operator: Exists}}]
  containers:
{}{}---
",
        container(PORTS[0]),
        container(PORTS[1])
    )
}

fn service(app: &str, node_ports: [u16; 2]) -> String {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {app}}}
spec:
  type: NodePort
  selector: {{app: {app}}}
  ports:
"
    );
    for (port, node_port) in PORTS.iter().zip(node_ports) {
        let _ = writeln!(text, "    - {{name: p{port}, port: {port}, nodePort: {node_port}}}");
    }
    text + "---\n"
}

impl Grid {
    /// Creates the pods in these namespaces, which get the labels `team=a` and `team=b`. NodePorts begin at
    /// `node_port`, below those that Kubernetes chooses.
    pub fn new(namespaces: [Namespace; 2], mut node_port: u16) -> Grid {
        let nodes: [Node; 2] = workers().try_into().expect("two workers");
        let mut places = Vec::new();
        for (at, namespace) in namespaces.iter().enumerate() {
            let team = format!("team={}", NAMESPACES[at]);
            kubectl(&["label", "namespace", &namespace.name, &team]);
            for (n, app) in APPS.into_iter().enumerate() {
                // `web` and `db` of a namespace are on different nodes.
                let node = (n + at) % nodes.len();
                let node_ports = [node_port, node_port + 1];
                node_port += 2;
                let manifest = pod(app, &nodes[node].name, PORTS[at]) + &service(app, node_ports);
                namespace.apply(&manifest);
                places.push((at, app, node, node_ports));
            }
        }
        let server = |(at, app, node, node_ports): (usize, &'static str, _, _)| Server {
            namespace: NAMESPACES[at],
            app,
            node,
            address: namespaces[at].ready(app, 1)[0].parse().unwrap(),
            cluster_ip: namespaces[at].cluster_ip(app).parse().unwrap(),
            node_ports,
        };
        let servers = places.into_iter().map(server).collect();
        Grid { namespaces, nodes, servers }
    }

    pub fn namespace(&self, name: &str) -> &Namespace {
        let at = NAMESPACES.iter().position(|n| *n == name).unwrap();
        &self.namespaces[at]
    }

    /// The address of a node.
    fn node_address(&self, node: usize) -> IpAddr {
        self.nodes[node].address.parse().unwrap()
    }

    /// Applies the policies of `matrices/<name>.yaml`.
    pub fn apply(&self, name: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("matrices/{name}.yaml"));
        let mut text = std::fs::read_to_string(file).unwrap();
        for (name, namespace) in NAMESPACES.iter().zip(&self.namespaces) {
            text = text.replace(&format!("{{{{{name}}}}}"), &namespace.name);
        }
        for server in &self.servers {
            let address = server.address.to_string();
            text = text.replace(&format!("{{{{ip {}}}}}", server.name()), &address);
        }
        for (n, node) in self.nodes.iter().enumerate() {
            text = text.replace(&format!("{{{{node {n}}}}}"), &node.address);
        }
        assert!(!text.contains("{{"), "{text}");
        try_kubectl(&["apply", "-f", "-"], &text).unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn remove_policies(&self) {
        for namespace in &self.namespaces {
            namespace.kubectl(&["delete", "networkpolicy", "--all"]);
        }
    }

    /// The objects that verdicts depend on.
    fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        for namespace in &self.namespaces {
            let name = &namespace.name;
            for kind in ["pods", "networkpolicies"] {
                let list = kubectl_json(&["-n", name, "get", kind]);
                objects.extend(list["items"].as_array().into_iter().flatten().map(objects::object));
            }
            objects.push(objects::object(&kubectl_json(&["get", "namespace", name])));
        }
        objects
    }

    /// What the oracle says of each client, server, port and path.
    pub fn expected(&self) -> Matrix {
        let objects = self.objects();
        let sandbox = |object: &Object| match object {
            Object::Pod(pod) => pod.ips.iter().next().map(|address| Sandbox {
                address,
                name: Some(pod.name.clone()),
                uid: pod.uid,
            }),
            _ => None,
        };
        // Each node judges its own pods: together, all of them.
        let sandboxes: Vec<Sandbox> = objects.iter().filter_map(sandbox).collect();
        let cluster = Cluster { objects: &objects, sandboxes: &sandboxes };
        self.probes().map(|probe| (probe.key(), self.allowed(cluster, probe))).collect()
    }

    fn allowed(&self, cluster: Cluster<'_>, probe: Probe<'_>) -> bool {
        let Probe { client, server, port, via } = probe;
        if via == Via::OtherNode {
            return self.allowed_by_other_node(cluster, probe);
        }
        // The client's node translates: both ends are judged by the addresses of the pods.
        let (source, destination) = (client.address, server.address);
        allows(cluster, NewFlow { source, destination, protocol: TCP, port, own_node: false })
    }

    /// CONTRACT 8.10: the client's node judges the address of the other node and the NodePort, which only
    /// that node translates. That judges its own pod by the client; a pod elsewhere gets the connection from
    /// the address of that node, and is judged by it.
    fn allowed_by_other_node(&self, cluster: Cluster<'_>, probe: Probe<'_>) -> bool {
        let Probe { client, server, port, .. } = probe;
        let of = |server: &Server| {
            let sandbox = cluster.sandboxes.iter().find(|s| s.address == server.address);
            sandbox.expect("the sandbox of a pod").clone()
        };
        let other = 1 - client.node;
        let node = self.node_address(other);
        let peer = if server.node == other { client.address } else { node };
        let node_port = probe.node_port();
        side_allows(cluster, &of(client), Side::Egress, node, TCP, node_port)
            && side_allows(cluster, &of(server), Side::Ingress, peer, TCP, port)
    }

    pub fn probes(&self) -> impl Iterator<Item = Probe<'_>> {
        let pairs = self.servers.iter().flat_map(|c| self.servers.iter().map(move |s| (c, s)));
        pairs
            .filter(|(client, server)| client.address != server.address)
            .flat_map(|pair| PORTS.map(|port| (pair, port)))
            .flat_map(|((client, server), port)| {
                PATHS.map(|via| Probe { client, server, port, via })
            })
    }

    fn url(&self, probe: Probe<'_>) -> String {
        let Probe { client, server, port, via } = probe;
        let (address, port) = match via {
            Via::Pod => (server.address, port),
            Via::ClusterIp => (server.cluster_ip, port),
            Via::OwnNode => (self.node_address(client.node), probe.node_port()),
            Via::OtherNode => (self.node_address(1 - client.node), probe.node_port()),
        };
        format!("http://{address}:{port}/")
    }

    /// What each client reaches.
    fn observed(&self) -> Result<Matrix, String> {
        let clients = || self.servers.iter();
        let rows: Vec<Result<Matrix, String>> = thread::scope(|scope| {
            let runs: Vec<_> =
                clients().map(|client| scope.spawn(|| self.observed_by(client))).collect();
            runs.into_iter().map(|run| run.join().expect("a client's thread")).collect()
        });
        rows.into_iter().try_fold(Matrix::new(), |mut all, row| {
            all.append(&mut row?);
            Ok(all)
        })
    }

    fn observed_by(&self, client: &Server) -> Result<Matrix, String> {
        let mut script = String::new();
        for probe in self.probes().filter(|probe| probe.client.address == client.address) {
            let (key, url) = (probe.key(), self.url(probe));
            let _ = writeln!(
                script,
                "(curl -s -m 2 -o /dev/null {url} && echo '{key} yes' || echo '{key} no') &"
            );
        }
        script.push_str("wait\n");
        let mut matrix = Matrix::new();
        for line in self.namespace(client.namespace).sh(client.app, &script)?.lines() {
            let (key, answer) = line.rsplit_once(' ').ok_or(line)?;
            matrix.insert(key.to_owned(), answer == "yes");
        }
        Ok(matrix)
    }

    /// Waits until the clients reach what is expected, and prints the matrix.
    #[track_caller]
    pub fn expect(&self, what: &str, expected: &Matrix) {
        println!("{what}:\n{}", self.table(expected));
        eventually(&format!("the matrix of {what}"), PROGRAMMED, || {
            let observed = self.observed()?;
            let wrong: Vec<_> =
                expected.iter().filter(|(k, v)| observed.get(*k) != Some(v)).collect();
            if wrong.is_empty() {
                return Ok(());
            }
            Err(format!("observed\n{}\nexpected {wrong:?}", self.table(&observed)))
        });
    }

    /// A row for each client, a column for each server and port: one sign per path, in the order of
    /// [`PATHS`].
    fn table(&self, matrix: &Matrix) -> String {
        let mut text = format!("paths: {PATHS:?}; x: passes\n{:8}", "");
        for server in &self.servers {
            for port in PORTS {
                let _ = write!(text, "{:>12}", format!("{}:{port}", server.name()));
            }
        }
        for client in &self.servers {
            let _ = write!(text, "\n{:8}", client.name());
            for server in &self.servers {
                for port in PORTS {
                    let sign = |via| match matrix.get(&Probe { client, server, port, via }.key()) {
                        Some(true) => 'x',
                        Some(false) => '.',
                        None => ' ',
                    };
                    let _ = write!(text, "{:>12}", String::from_iter(PATHS.map(sign)));
                }
            }
        }
        text
    }
}
