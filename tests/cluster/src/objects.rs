//! Objects of the API as the oracle reads them. The agent's converter is not used: an error of it would be in
//! the expectations too.
//!
//! Only what the API server accepts is read, with the defaults of the API; anything else fails the test.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use sluice_core::model::{
    ContainerPort, IpBlock, LabelSelector, Namespace, NetworkPolicy, Object, ObjectName, Operator,
    Pod, PodPhase, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec, Protocol, Requirement, Uid,
};

/// `spec` of a networking.k8s.io/v1 NetworkPolicy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    pod_selector: Selector,
    policy_types: Option<Vec<PolicyType>>,
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Egress>>,
}

#[derive(Deserialize, PartialEq)]
enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    from: Option<Vec<Peer>>,
    ports: Option<Vec<PortEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Egress {
    to: Option<Vec<Peer>>,
    ports: Option<Vec<PortEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    pod_selector: Option<Selector>,
    namespace_selector: Option<Selector>,
    ip_block: Option<Block>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    cidr: IpNet,
    except: Option<Vec<IpNet>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortEntry {
    protocol: Option<String>,
    port: Option<NumberOrName>,
    end_port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(i64),
    Name(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

/// The Pod, Namespace or NetworkPolicy of `kubectl -o json` or of a manifest.
pub fn object(json: &Value) -> Object {
    match json["kind"].as_str() {
        Some("Pod") => Object::Pod(pod(json)),
        Some("Namespace") => Object::Namespace(namespace(json)),
        Some("NetworkPolicy") => Object::NetworkPolicy(network_policy(json)),
        kind => panic!("{kind:?} is not read"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

fn name(json: &Value) -> ObjectName {
    let metadata = &json["metadata"];
    ObjectName::new(metadata["namespace"].as_str().unwrap_or("default"), text(&metadata["name"]))
}

fn labels(json: &Value) -> impl Iterator<Item = (&str, &str)> {
    let labels = json["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.as_str(), text(value)))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn namespace(json: &Value) -> Namespace {
    let name = text(&json["metadata"]["name"]).to_owned();
    let labels = labels(json).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Namespace { name, labels }
}

/// Without init containers, whose ports count for sidecars only.
fn pod(json: &Value) -> Pod {
    let (spec, status) = (&json["spec"], &json["status"]);
    let port = |port: &Value| {
        Some(ContainerPort {
            name: port["name"].as_str()?.into(),
            protocol: protocol(port["protocol"].as_str()),
            port: number(port["containerPort"].as_i64().expect("a number")),
        })
    };
    Pod {
        name: name(json),
        uid: json["metadata"]["uid"].as_str().and_then(Uid::from_api),
        node: spec["nodeName"].as_str().map(Into::into),
        labels: labels(json).collect(),
        ports: list(&spec["containers"]).flat_map(|c| list(&c["ports"])).filter_map(port).collect(),
        ips: list(&status["podIPs"])
            .map(|ip| text(&ip["ip"]).parse::<IpAddr>().expect("an address"))
            .collect(),
        phase: PodPhase::from_api(status["phase"].as_str()),
        host_network: spec["hostNetwork"] == true,
        terminating: !json["metadata"]["deletionTimestamp"].is_null(),
    }
}

fn network_policy(json: &Value) -> NetworkPolicy {
    let spec: Spec = serde_json::from_value(json["spec"].clone()).expect("a valid policy");
    let types = spec.policy_types.unwrap_or_default();
    let has_egress_rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let (isolates_ingress, isolates_egress) = match &types[..] {
        [] => (true, has_egress_rules),
        types => (types.contains(&PolicyType::Ingress), types.contains(&PolicyType::Egress)),
    };
    let ingress = spec.ingress.into_iter().flatten().map(|r| rule(r.from, r.ports));
    let egress = spec.egress.into_iter().flatten().map(|r| rule(r.to, r.ports));
    NetworkPolicy {
        name: name(json),
        pod_selector: selector(spec.pod_selector),
        ingress: isolates_ingress.then(|| ingress.collect()),
        egress: isolates_egress.then(|| egress.collect()),
        ..NetworkPolicy::default()
    }
}

fn rule(peers: Option<Vec<Peer>>, ports: Option<Vec<PortEntry>>) -> PolicyRule {
    PolicyRule {
        peers: peers.into_iter().flatten().map(peer).collect(),
        ports: ports.into_iter().flatten().map(policy_port).collect(),
    }
}

fn peer(peer: Peer) -> PolicyPeer {
    match (peer.ip_block, peer.namespace_selector, peer.pod_selector) {
        (Some(Block { cidr, except }), None, None) => {
            // Host bits have no meaning.
            let except = except.into_iter().flatten().map(|net| net.trunc()).collect();
            PolicyPeer::Block(IpBlock { cidr: cidr.trunc(), except })
        }
        (None, None, None) | (Some(_), ..) => panic!("a peer is a block or has selectors"),
        (None, namespaces, pods) => PolicyPeer::Pods {
            namespaces: namespaces.map(selector),
            pods: pods.map(selector).unwrap_or_default(),
        },
    }
}

fn policy_port(entry: PortEntry) -> PolicyPort {
    let ports = match (entry.port, entry.end_port) {
        (None, None) => PortSpec::All,
        (Some(NumberOrName::Number(first)), None) => PortSpec::Number(number(first)),
        (Some(NumberOrName::Number(first)), Some(last)) => {
            PortSpec::Range(number(first), number(last))
        }
        (Some(NumberOrName::Name(name)), None) => PortSpec::Name(name.into()),
        (_, Some(_)) => panic!("endPort without a number"),
    };
    PolicyPort { protocol: protocol(entry.protocol.as_deref()), ports }
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => panic!("protocol {other}"),
    }
}

fn number(port: i64) -> Port {
    Port::new(port).unwrap_or_else(|| panic!("port {port}"))
}

fn selector(selector: Selector) -> LabelSelector {
    let labels = selector.match_labels.into_iter().flatten();
    let labels = labels.map(|(key, value)| Requirement::equals(key, value));
    let expressions = selector.match_expressions.into_iter().flatten().map(|expression| {
        let values = expression.values.unwrap_or_default().into_iter().map(Into::into).collect();
        let operator = match &*expression.operator {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => panic!("operator {other}"),
        };
        Requirement { key: expression.key.into(), operator }
    });
    labels.chain(expressions).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use sluice_agent::source::convert::{from_json, kind_from_name};

    use super::*;

    /// What the matrices and examples do not have.
    const OTHERS: &str = "
- {podSelector: {}}
- {podSelector: {}, ingress: [], egress: []}
- {podSelector: {}, policyTypes: [], egress: [{}]}
- {podSelector: {}, policyTypes: [Egress], ingress: [{}]}
- {podSelector: {}, policyTypes: [Ingress], egress: [{}]}
- {podSelector: {}, policyTypes: [Egress, Ingress], ingress: [{}, {from: [], ports: []}]}
- podSelector: {matchLabels: {a: x, b: ''}, matchExpressions: [{key: a, operator: In, values: [x, y]}]}
  ingress:
  - from:
    - podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [x]}, {key: b, operator: Exists}]}
    - namespaceSelector: {matchExpressions: [{key: c.org/d, operator: DoesNotExist}]}
    - {podSelector: {}, namespaceSelector: {}}
    - {podSelector: {}}
    - {namespaceSelector: {}}
    - {podSelector: {matchLabels: {a: x}}, namespaceSelector: {matchLabels: {t: y}}}
    ports: [{}, {protocol: UDP}, {port: 53, protocol: UDP}, {port: 80}, {port: http}, {port: x, protocol: SCTP}]
- podSelector: {}
  egress:
  - to:
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.0/24]}
    - ipBlock: {cidr: 10.1.2.3/8}
    - ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/32']}
    ports: [{port: 1, endPort: 65535}, {port: 7, endPort: 7, protocol: SCTP}]
- podSelector: {}
  policyTypes: null
  ingress: [{from: null, ports: null}]
  egress: null
";

    fn documents(text: &str) -> Vec<Value> {
        let documents = serde_yaml::Deserializer::from_str(text);
        documents.map(|document| Value::deserialize(document).unwrap()).collect()
    }

    /// The policies of the matrices, of the examples, and of `OTHERS`.
    fn policies() -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        for folder in ["matrices", "../../docs/examples/policies"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
            for file in files.filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
                let text = fs::read_to_string(&file).unwrap();
                let text = text.replace("{{ip a/db}}", "10.244.1.2");
                let text = text.replace("{{ip a/web}}", "10.244.1.3");
                let text = text.replace("{{node 0}}", "172.18.0.2");
                let text = text.replace("{{outside}}", "172.18.0.9");
                all.extend(documents(&text.replace("{{node 1}}", "172.18.0.3")));
            }
        }
        all.retain(|document| document["kind"] == "NetworkPolicy");
        let others: Vec<Value> = serde_yaml::from_str(OTHERS).unwrap();
        all.extend(others.into_iter().map(|spec| {
            serde_json::json!({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
        }));
        all
    }

    /// The agent's object.
    fn converted(json: &Value) -> Object {
        let kind = kind_from_name(text(&json["kind"])).unwrap();
        from_json(kind, json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn agent_converts_policies_to_what_the_expectations_are_made_of() {
        let policies = policies();
        assert!(policies.len() > 20, "{}", policies.len());
        // What policyTypes switch off is for findings only.
        let agents = |policy: &Value| match converted(policy) {
            Object::NetworkPolicy(policy) => {
                Object::NetworkPolicy(NetworkPolicy { unused_rules: [0; 2], ..policy })
            }
            other => other,
        };
        let differs = |policy: &&Value| agents(policy) != object(policy);
        let differing: Vec<&Value> = policies.iter().filter(differs).collect();
        assert!(differing.is_empty(), "{differing:#?}");
    }

    #[test]
    fn agent_converts_pods_and_namespaces_to_what_the_expectations_are_made_of() {
        let label = serde_json::json!({"kubernetes.io/metadata.name": "shop", "team": "a"});
        let namespace =
            serde_json::json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": label}});
        assert_eq!(converted(&namespace), object(&namespace));
        let pods = "
kind: Pod
metadata:
  {name: web, namespace: shop, uid: 6d9b3f6e-8f4e-4d3c-9a55-0f1e2d3c4b5a, labels: {app: web, a: ''}}
spec:
  nodeName: n1
  containers:
  - {name: a, ports: [{name: http, containerPort: 80, protocol: TCP}, {containerPort: 81}]}
  - {name: b, ports: [{name: dns, containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}, {ip: 'fd00::2'}]}
---
kind: Pod
metadata: {name: gone, namespace: shop, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec: {hostNetwork: true, containers: []}
status: {phase: Succeeded}
";
        for pod in documents(pods) {
            assert_eq!(converted(&pod), object(&pod), "{pod}");
        }
    }
}
