//! Manifests of Nodes, Services and EndpointSlices, in the form of the API server.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{Node, Pod};

/// A kubeconfig for an API server that asks for no credentials.
pub fn kubeconfig(server: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: c, cluster: {{server: '{server}'}}}}]
users: [{{name: c, user: {{}}}}]
contexts: [{{name: c, context: {{cluster: c, user: c}}}}]
"
    )
}

/// A Node with its podCIDR and InternalIP.
pub fn node(node: &Node) -> String {
    format!(
        "
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDR: {cidr}, podCIDRs: [{cidr}]}}
status:
  addresses: [{{type: InternalIP, address: {address}}}, {{type: Hostname, address: {name}}}]
",
        name = node.name,
        cidr = node.pod_cidr,
        address = node.address
    )
}

/// The same for an API server in memory.
pub fn node_object(node: &Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name},
        "spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": node.address}]},
    })
}

/// A running Pod, with a deletionTimestamp if it is `terminating`.
pub fn pod(pod: &Pod, terminating: bool) -> String {
    let deleted = if terminating { ", deletionTimestamp: '2026-01-01T00:00:00Z'" } else { "" };
    pod_with(pod, deleted)
}

/// A running Pod with labels.
pub fn pod_with_labels(pod: &Pod, labels: &[(&str, &str)]) -> String {
    pod_with(pod, &format!(", labels: {}", mapping(labels)))
}

/// A running Pod with more `metadata`.
fn pod_with(pod: &Pod, metadata: &str) -> String {
    let (namespace, name) = pod.sandbox.name.split_once('/').unwrap_or_default();
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, uid: '{uid}'{metadata}}}
status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}
",
        address = pod.address,
        uid = uid(&pod.address.to_string()),
    )
}

/// A Namespace with labels.
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> String {
    let labels = mapping(labels);
    format!("\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n")
}

/// A mapping of texts.
fn mapping(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{key}: '{value}'")).collect();
    format!("{{{}}}", entries.join(", "))
}

/// The UID of the Pod with an address.
fn uid(address: &str) -> String {
    let prime = 0x0100_0000_01b3;
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(prime);
    format!("{:032x}", address.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A ClusterIP Service in the namespace `default`; ports as `tcp:80->8080`, or `tcp:80` where both
/// are equal.
pub fn service(name: &str, cluster_ip: &str, ports: &[&str]) -> String {
    let mut yaml = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default, uid: uid-{name}}}
spec:
  type: ClusterIP
  clusterIP: {cluster_ip}
  clusterIPs: [{cluster_ip}]
  ipFamilies: [IPv4]
  selector: {{app: {name}}}
  ports:
"
    );
    for port in ports.iter().map(|p| Port::parse(p)) {
        let Port { name, protocol, port, target } = port;
        writeln!(
            yaml,
            "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}}}"
        )
        .unwrap();
    }
    yaml
}

/// An EndpointSlice of a Service with these pods, all ready.
pub fn slice(service: &str, ports: &[&str], backends: &[&Pod]) -> String {
    let addresses: Vec<String> = backends.iter().map(|pod| pod.address.to_string()).collect();
    slice_of(&format!("{service}-a"), service, ports, &addresses)
}

/// An EndpointSlice with any addresses, all ready.
pub fn slice_of(name: &str, service: &str, ports: &[&str], addresses: &[String]) -> String {
    let mut yaml = format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: default
  labels: {{kubernetes.io/service-name: {service}}}
addressType: IPv4
ports:
"
    );
    for port in ports.iter().map(|p| Port::parse(p)) {
        let Port { name, protocol, target, .. } = port;
        writeln!(yaml, "- {{name: {name}, protocol: {protocol}, port: {target}}}").unwrap();
    }
    if addresses.is_empty() {
        yaml.push_str("endpoints: []\n");
    } else {
        yaml.push_str("endpoints:\n");
    }
    for address in addresses {
        writeln!(
            yaml,
            "- {{addresses: [{address}], targetRef: {{kind: Pod, uid: '{uid}'}}, conditions: {{ready: true, \
             serving: true, terminating: false}}}}",
            uid = uid(address),
        )
        .unwrap();
    }
    yaml
}

/// A Service and its only EndpointSlice in one manifest.
pub fn service_with(name: &str, cluster_ip: &str, ports: &[&str], backends: &[&Pod]) -> String {
    format!("{}---{}", service(name, cluster_ip, ports), slice(name, ports, backends))
}

/// A port of a Service and of its endpoints.
struct Port {
    name: String,
    protocol: String,
    port: u16,
    target: u16,
}

impl Port {
    fn parse(text: &str) -> Port {
        let (protocol, numbers) = text.split_once(':').unwrap_or_else(|| panic!("port {text}"));
        let (port, target) = numbers.split_once("->").unwrap_or((numbers, numbers));
        Port {
            name: format!("{protocol}-{port}"),
            protocol: protocol.to_uppercase(),
            port: port.parse().unwrap(),
            target: target.parse().unwrap(),
        }
    }
}
