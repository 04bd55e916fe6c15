//! NetworkPolicies: every pair of pods and every port, by pod address and by Service, as the oracle says.
//!
//! `matrices/<name>.yaml` has the policies. The pods `web` and `db` of the namespaces `a` and `b`, which have
//! the label `team`, are on two nodes and serve the ports 8080 and 9090; `http` is the name of 8080 in `a` and
//! of 9090 in `b`. Placeholders: `{{a}}`, `{{b}}`, and `{{ip a/web}}` for the address of a pod.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cluster_tests::{AGNHOST, Namespace, eventually, kubectl, kubectl_json, try_kubectl, workers};
use serde_json::Value;
use sluice_agent::source::convert;
use sluice_core::model::{Kind, Object};
use sluice_core::oracle::{Cluster, NewFlow, Sandbox, allows};

const NAMESPACES: [&str; 2] = ["a", "b"];
const APPS: [&str; 2] = ["web", "db"];
const PORTS: [u16; 2] = [8080, 9090];
/// Time until a change acts, with the load of other tests.
const PROGRAMMED: Duration = Duration::from_secs(30);

/// A pod with its Service.
struct Server {
    /// `a/web`.
    name: String,
    address: IpAddr,
    cluster_ip: IpAddr,
}

/// Namespaces, pods and Services.
struct Grid {
    namespaces: [Namespace; 2],
    servers: Vec<Server>,
}

fn manifest(app: &str, node: &str, http: u16) -> String {
    let [first, second] = PORTS;
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
apiVersion: v1
kind: Service
metadata: {{name: {app}}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: first, port: {first}}}, {{name: second, port: {second}}}]
---
",
        container(first),
        container(second)
    )
}

impl Grid {
    fn new() -> Grid {
        let workers = workers();
        let namespaces = NAMESPACES.map(|name| Namespace::new(&format!("matrix-{name}")));
        for (at, namespace) in namespaces.iter().enumerate() {
            let team = format!("team={}", NAMESPACES[at]);
            kubectl(&["label", "namespace", &namespace.name, &team]);
            for (n, app) in APPS.into_iter().enumerate() {
                // `web` and `db` of a namespace are on different nodes.
                let node = &workers[(n + at) % workers.len()].name;
                namespace.apply(&manifest(app, node, PORTS[at]));
            }
        }
        let mut servers = Vec::new();
        for (at, namespace) in namespaces.iter().enumerate() {
            for app in APPS {
                servers.push(Server {
                    name: format!("{}/{app}", NAMESPACES[at]),
                    address: namespace.ready(app, 1)[0].parse().unwrap(),
                    cluster_ip: namespace.cluster_ip(app).parse().unwrap(),
                });
            }
        }
        Grid { namespaces, servers }
    }

    fn namespace_of(&self, server: &Server) -> (&Namespace, String) {
        let (namespace, app) = server.name.split_once('/').unwrap();
        let at = NAMESPACES.iter().position(|name| *name == namespace).unwrap();
        (&self.namespaces[at], app.to_owned())
    }

    /// Applies the policies of a matrix.
    fn apply(&self, name: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("matrices/{name}.yaml"));
        let mut text = std::fs::read_to_string(file).unwrap();
        for (name, namespace) in NAMESPACES.iter().zip(&self.namespaces) {
            text = text.replace(&format!("{{{{{name}}}}}"), &namespace.name);
        }
        for server in &self.servers {
            let address = server.address.to_string();
            text = text.replace(&format!("{{{{ip {}}}}}", server.name), &address);
        }
        assert!(!text.contains("{{"), "{text}");
        try_kubectl(&["apply", "-f", "-"], &text).unwrap_or_else(|e| panic!("{e}"));
    }

    fn remove_policies(&self) {
        for namespace in &self.namespaces {
            namespace.kubectl(&["delete", "networkpolicy", "--all"]);
        }
    }

    /// The objects that verdicts depend on.
    fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        for namespace in &self.namespaces {
            let name = &namespace.name;
            let lists = [
                (Kind::Pod, kubectl_json(&["-n", name, "get", "pods"])),
                (Kind::NetworkPolicy, kubectl_json(&["-n", name, "get", "networkpolicies"])),
            ];
            for (kind, list) in lists {
                let items = list["items"].as_array().cloned().unwrap_or_default();
                objects.extend(items.iter().map(|item| object(kind, item)));
            }
            objects.push(object(Kind::Namespace, &kubectl_json(&["get", "namespace", name])));
        }
        objects
    }

    /// What the oracle says of each client, server and port.
    fn expected(&self) -> Matrix {
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
        let mut matrix = Matrix::new();
        for (client, server, port) in self.probes() {
            let (source, destination) = (client.address, server.address);
            let flow = NewFlow { source, destination, protocol: 6, port, own_node: false };
            for path in ["pod", "service"] {
                matrix.insert(key(client, server, port, path), allows(cluster, flow));
            }
        }
        matrix
    }

    fn probes(&self) -> impl Iterator<Item = (&Server, &Server, u16)> {
        let pairs = self.servers.iter().flat_map(|c| self.servers.iter().map(move |s| (c, s)));
        pairs
            .filter(|(client, server)| client.name != server.name)
            .flat_map(|(client, server)| PORTS.map(|port| (client, server, port)))
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
        for (_, server, port) in self.probes().filter(|(from, ..)| from.name == client.name) {
            for (path, address) in [("pod", server.address), ("service", server.cluster_ip)] {
                let key = key(client, server, port, path);
                let _ = writeln!(
                    script,
                    "(curl -s -m 2 -o /dev/null http://{address}:{port}/ && echo '{key} yes' \
                     || echo '{key} no') &"
                );
            }
        }
        script.push_str("wait\n");
        let (namespace, pod) = self.namespace_of(client);
        let mut matrix = Matrix::new();
        for line in namespace.sh(&pod, &script)?.lines() {
            let (key, answer) = line.rsplit_once(' ').ok_or(line)?;
            matrix.insert(key.to_owned(), answer == "yes");
        }
        Ok(matrix)
    }
}

/// Whether a client reaches a server, by client, server, port and path.
type Matrix = BTreeMap<String, bool>;

fn key(client: &Server, server: &Server, port: u16, path: &str) -> String {
    format!("{} to {}:{port} by {path}", client.name, server.name)
}

fn object(kind: Kind, json: &Value) -> Object {
    convert::from_json(kind, json.to_string().as_bytes()).unwrap()
}

#[test]
fn every_pair_of_pods_and_port_is_as_the_oracle_says() {
    let grid = Grid::new();
    let mut shares = [0; 2];
    for name in [
        "default-deny",
        "namespaces-by-label",
        "egress-named-ports",
        "blocks-and-ranges",
        "no-peer-and-any-peer",
    ] {
        grid.apply(name);
        let expected = grid.expected();
        for allowed in expected.values() {
            shares[usize::from(*allowed)] += 1;
        }
        eventually(&format!("the matrix of {name}"), PROGRAMMED, || {
            let observed = grid.observed()?;
            let wrong: Vec<_> =
                expected.iter().filter(|(k, v)| observed.get(*k) != Some(v)).collect();
            if wrong.is_empty() { Ok(()) } else { Err(format!("expected {wrong:?}")) }
        });
        grid.remove_policies();
    }
    assert!(shares.iter().all(|share| *share > 40), "denied, allowed: {shares:?}");
    let all_open = grid.expected();
    assert!(all_open.values().all(|allowed| *allowed));
    eventually("everything is open", PROGRAMMED, || match grid.observed()? {
        observed if observed == all_open => Ok(()),
        observed => Err(format!("{observed:?}")),
    });
}
