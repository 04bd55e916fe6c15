//! Pods in two namespaces and on two nodes, each with a Service, and who reaches whom by which address.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use cluster_tests::{
    AGNHOST, Namespace, Node, OutsideHost, client_on, docker, eventually, kubectl, kubectl_json,
    objects, try_kubectl, workers,
};
use sluice_core::model::Object;
use sluice_core::oracle::{Cluster, Sandbox, Side, side_allows};

use crate::PROGRAMMED;
use crate::probe::{
    Client, HOST, HOST_NODE, PATHS, PORTS, PROTOCOLS, Probe, Server, Via, passes, script,
};

pub const NAMESPACES: [&str; 2] = ["a", "b"];
/// `web` and `api` of a namespace are on one node, `db` is on the other.
const APPS: [&str; 3] = ["web", "db", "api"];

/// Whether a client reaches a server, by [`Probe::key`].
pub type Matrix = BTreeMap<String, bool>;

/// Namespaces, pods and Services, and a host outside of the cluster.
pub struct Grid {
    namespaces: [Namespace; 2],
    nodes: [Node; 2],
    outside: OutsideHost,
    pub servers: Vec<Server>,
}

/// A container for each port, which serves TCP and UDP. `http` names the TCP port `http`, `http-udp` the UDP port
/// of the same number.
fn pod(app: &str, node: &str, http: u16) -> String {
    let container = |port: u16| {
        let named = if port == http {
            "[{name: http, containerPort: PORT}, {name: http-udp, containerPort: PORT, protocol: UDP}]"
        } else {
            "[]"
        };
        format!(
            "    - {{name: p{port}, image: {AGNHOST}, imagePullPolicy: IfNotPresent,
       command: [/agnhost, netexec, --http-port={port}, --udp-port={port}], ports: {named}}}\n"
        )
        .replace("PORT", &port.to_string())
    };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {app}, labels: {{app: {app}, server: {app}}}}}
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
  selector: {{server: {app}}}
  ports:
"
    );
    for (port, node_port) in PORTS.iter().zip(node_ports) {
        for protocol in PROTOCOLS {
            let _ = writeln!(
                text,
                "    - {{name: {}{port}, protocol: {protocol}, port: {port}, nodePort: {node_port}}}",
                protocol.name().to_lowercase()
            );
        }
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
                let node = (n + at) % nodes.len();
                let node_ports = [node_port, node_port + 1];
                node_port += 2;
                let manifest = pod(app, &nodes[node].name, PORTS[at]) + &service(app, node_ports);
                namespace.apply(&manifest);
                places.push((at, app, node, node_ports));
            }
        }
        // Its labels are those of a pod that policies admit: no selector selects it.
        let host = client_on(HOST, &nodes[HOST_NODE].name, true);
        namespaces[1].apply(&host.replace(&format!("app: {HOST}"), "app: web"));
        let outside = OutsideHost::start();
        for namespace in &namespaces {
            let all = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"];
            namespace.kubectl(&all);
        }
        let server = |(at, app, node, node_ports): (usize, &'static str, _, _)| Server {
            namespace: NAMESPACES[at],
            app,
            node,
            address: namespaces[at].pod_ip(app).parse().unwrap(),
            cluster_ip: namespaces[at].cluster_ip(app).parse().unwrap(),
            node_ports,
        };
        let servers = places.into_iter().map(server).collect();
        Grid { namespaces, nodes, outside, servers }
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
        text = text.replace("{{outside}}", &self.outside.address);
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

    /// What the oracle says of each probe.
    pub fn expected(&self) -> Matrix {
        let objects = self.objects();
        let sandbox = |object: &Object| match object {
            Object::Pod(pod) if !pod.host_network => pod.ips.iter().next().map(|address| Sandbox {
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
        let Probe { client, server, port, protocol, via } = probe;
        let judge = |of: &Server, side: Side, peer: IpAddr, port: u16| {
            let sandbox = cluster.sandboxes.iter().find(|s| s.address == of.address);
            side_allows(cluster, sandbox.expect("a sandbox"), side, peer, protocol.number(), port)
        };
        // CONTRACT 8.9: a NodePort of another node is judged as such; only that node translates it.
        let egress = match client {
            Client::Pod(pod) if via == Via::OtherNode => {
                judge(pod, Side::Egress, self.via_node(probe), probe.node_port())
            }
            Client::Pod(pod) => judge(pod, Side::Egress, server.address, port),
            Client::HostNetwork | Client::Outside => true,
        };
        egress && (Self::is_own_node(probe) || judge(server, Side::Ingress, self.peer(probe), port))
    }

    /// CONTRACT 8.11: a process of the server's node, whose connection does not leave the node.
    fn is_own_node(probe: Probe<'_>) -> bool {
        matches!(probe.client, Client::HostNetwork)
            && probe.via != Via::OtherNode
            && probe.server.node == HOST_NODE
    }

    /// CONTRACT 8.10: the address by which the node of the server judges the client. A node that sends the
    /// connection of a client elsewhere on to another node masquerades it.
    fn peer(&self, probe: Probe<'_>) -> IpAddr {
        let Probe { client, server, via, .. } = probe;
        let is_elsewhere = via == Via::OtherNode || matches!(client, Client::Outside);
        if is_elsewhere && server.node != probe.node() {
            return self.via_node(probe);
        }
        match client {
            Client::Pod(pod) => pod.address,
            Client::HostNetwork => self.node_address(HOST_NODE),
            Client::Outside => self.outside.address.parse().unwrap(),
        }
    }

    /// The address of the node whose NodePort a probe uses.
    fn via_node(&self, probe: Probe<'_>) -> IpAddr {
        self.node_address(probe.node())
    }

    fn clients(&self) -> impl Iterator<Item = Client<'_>> {
        let pods = self.servers.iter().map(Client::Pod);
        pods.chain([Client::HostNetwork, Client::Outside])
    }

    fn probes_of<'a>(&'a self, client: Client<'a>) -> impl Iterator<Item = Probe<'a>> {
        self.servers
            .iter()
            .flat_map(|server| PORTS.map(|port| (server, port)))
            .flat_map(|at| PROTOCOLS.map(|protocol| (at, protocol)))
            .flat_map(move |((server, port), protocol)| {
                PATHS.map(|via| Probe { client, server, port, protocol, via })
            })
            .filter(|probe| probe.is_possible())
    }

    pub fn probes(&self) -> impl Iterator<Item = Probe<'_>> {
        self.clients().flat_map(|client| self.probes_of(client))
    }

    /// `10.244.1.2:8080`.
    fn target(&self, probe: Probe<'_>) -> String {
        let (address, port) = match probe.via {
            Via::Pod => (probe.server.address, probe.port),
            Via::ClusterIp => (probe.server.cluster_ip, probe.port),
            Via::OwnNode | Via::OtherNode => (self.via_node(probe), probe.node_port()),
        };
        format!("{address}:{port}")
    }

    /// What each client reaches.
    fn observed(&self) -> Result<Matrix, String> {
        let rows: Vec<Result<Matrix, String>> = thread::scope(|scope| {
            let runs: Vec<_> = self
                .clients()
                .map(|client| scope.spawn(move || self.observed_by(client)))
                .collect();
            runs.into_iter().map(|run| run.join().expect("a client's thread")).collect()
        });
        rows.into_iter().try_fold(Matrix::new(), |mut all, row| {
            all.append(&mut row?);
            Ok(all)
        })
    }

    fn observed_by(&self, client: Client<'_>) -> Result<Matrix, String> {
        let probes: Vec<_> =
            self.probes_of(client).map(|probe| (probe, self.target(probe))).collect();
        let targets = probes.iter().map(|(probe, to)| (probe.protocol, to.as_str()));
        let bash = ["bash", "-c", &script(targets)];
        let output = match client {
            Client::Pod(pod) => self.exec(pod.namespace, pod.app, &bash),
            Client::HostNetwork => self.exec(NAMESPACES[1], HOST, &bash),
            Client::Outside => docker(&[&["exec", self.outside.name()], &bash[..]].concat()),
        }?;
        let results: BTreeMap<&str, &str> =
            output.lines().filter_map(|line| line.rsplit_once(' ')).collect();
        let observed = |(probe, to): &(Probe<'_>, String)| {
            let result = results.get(&*format!("{} {to}", probe.protocol));
            let code = result.ok_or_else(|| format!("no result of {}: {output}", probe.key()))?;
            let passes = passes(probe.protocol, code);
            Ok((probe.key(), passes.map_err(|e| format!("{}: {e}", probe.key()))?))
        };
        probes.iter().map(observed).collect()
    }

    fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        self.namespace(namespace).try_kubectl(&[&["exec", pod, "--"], command].concat())
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

    /// A row for each client, a column for each server and port: one sign per protocol and path, in the order
    /// of [`PROTOCOLS`] and [`PATHS`].
    fn table(&self, matrix: &Matrix) -> String {
        let mut text = format!("TCP and UDP by {PATHS:?}; x: passes\n{:8}", "");
        for server in &self.servers {
            for port in PORTS {
                let _ = write!(text, "{:>12}", format!("{}:{port}", server.name()));
            }
        }
        for client in self.clients() {
            let _ = write!(text, "\n{:8}", client.name());
            for server in &self.servers {
                for port in PORTS {
                    let signs = PROTOCOLS.map(|protocol| {
                        let probe = |via| Probe { client, server, port, protocol, via };
                        let sign = |via| match matrix.get(&probe(via).key()) {
                            Some(true) => 'x',
                            Some(false) => '.',
                            None => ' ',
                        };
                        String::from_iter(PATHS.map(sign))
                    });
                    let _ = write!(text, "{:>12}", signs.join(" "));
                }
            }
        }
        text
    }
}
