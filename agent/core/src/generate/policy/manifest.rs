//! Objects that policies depend on, as YAML: a random case that fails can be read, applied and checked.
//!
//! The generators also draw what the API cannot express, such as an exception that is not a part of its
//! block. [`readable`] is the object that is read from the manifest of another one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::model::{
    ClusterNetworkPolicy, ClusterRule, ContainerPort, IpBlock, LabelSelector, NetworkPolicy, Node,
    Object, ObjectName, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec,
    Protocol, RuleAction, Tier,
};
use crate::policy::LocalPod;

/// Label that the API server sets.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The objects as YAML documents, after `comment`. Services, EndpointSlices and ServiceCIDRs are left out.
/// `kubectl apply` accepts what is valid; a peer, port or rule that is not is written so that it is read
/// as such.
pub fn manifests(objects: &[Object], comment: &str) -> String {
    let comment: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    let documents = objects.iter().filter_map(|object| {
        let yaml = serde_yaml::to_string(&document(&readable(object))?);
        Some(yaml.unwrap_or_else(|e| format!("# {} is not written: {e}\n", object.name())))
    });
    comment + &documents.collect::<Vec<_>>().join("---\n")
}

/// The pods of the node as lines, for a comment.
pub fn lease_lines(leases: &[LocalPod]) -> String {
    let line = |lease: &LocalPod| {
        let LocalPod { index, generation, address, name, uid } = lease;
        let name = name.as_ref().map_or("not of Kubernetes".to_owned(), ObjectName::to_string);
        let uid = uid.map(|uid| format!(", uid {uid:?}")).unwrap_or_default();
        format!("pod of the node: {address} {name}, index {index}/{generation}{uid}\n")
    };
    leases.iter().map(line).collect()
}

/// The object that is read from the manifest of another one. Flows are judged alike by both, unless the API
/// does not have the other one: a NetworkPolicy without a direction isolates ingress, and a rule of a
/// ClusterNetworkPolicy with peers or ports of other rules is not valid. Texts about what is not valid are
/// empty.
pub fn readable(object: &Object) -> Object {
    let mut object = object.clone();
    match &mut object {
        Object::NetworkPolicy(policy) => {
            if policy.egress.is_none() {
                // The default of `policyTypes`.
                policy.ingress.get_or_insert_default();
            }
            for rule in [&mut policy.ingress, &mut policy.egress].into_iter().flatten().flatten() {
                rule.peers.iter_mut().for_each(readable_peer);
                rule.ports.iter_mut().for_each(readable_port);
            }
        }
        Object::ClusterNetworkPolicy(policy) => {
            policy.ingress.iter_mut().for_each(|rule| readable_rule(rule, false));
            policy.egress.iter_mut().for_each(|rule| readable_rule(rule, true));
        }
        Object::Namespace(namespace) => {
            let name = namespace.name.clone();
            namespace.labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name);
        }
        _ => {}
    }
    object
}

fn readable_peer(peer: &mut PolicyPeer) {
    match peer {
        PolicyPeer::Pods { .. } => {}
        PolicyPeer::Block(IpBlock { cidr, except }) => {
            *cidr = cidr.trunc();
            if except.iter().any(|except| except.contains(&*cidr)) {
                *peer = PolicyPeer::Invalid("".into());
                return;
            }
            let parts = except.iter().filter(|except| cidr.contains(*except));
            *except = parts.map(IpNet::trunc).collect();
        }
        PolicyPeer::Nodes(_) | PolicyPeer::Invalid(_) => *peer = PolicyPeer::Invalid("".into()),
    }
}

fn readable_port(port: &mut PolicyPort) {
    if matches!(port.ports, PortSpec::Invalid(_)) {
        *port = PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::Invalid("".into()) };
    }
}

fn readable_rule(rule: &mut ClusterRule, is_egress: bool) {
    let is_pods = |peer: &PolicyPeer| matches!(peer, PolicyPeer::Pods { .. });
    let has_name = rule.matches.ports.iter().any(|p| matches!(p.ports, PortSpec::Name(_)));
    let has_others = !rule.matches.peers.iter().all(is_pods);
    if !rule.is_valid() || has_others && (has_name || !is_egress) {
        rule.matches = PolicyRule::default();
        rule.invalid = Some("".into());
        return;
    }
    for peer in &mut rule.matches.peers {
        if let PolicyPeer::Block(block) = peer {
            block.cidr = block.cidr.trunc();
        }
    }
    let mut ports: Vec<PolicyPort> = Vec::new();
    for port in &rule.matches.ports {
        match &port.ports {
            // All but 0, which nothing uses.
            PortSpec::All => {
                ports.extend(Port::new(1).zip(Port::new(u16::MAX)).map(|(first, last)| {
                    PolicyPort { ports: PortSpec::Range(first, last), ..port.clone() }
                }))
            }
            PortSpec::Name(_) if ports.iter().any(|known| known.ports == port.ports) => {}
            PortSpec::Name(_) => {
                let of = |protocol| PolicyPort { protocol, ports: port.ports.clone() };
                ports.extend(Protocol::ALL.map(of));
            }
            _ => ports.push(port.clone()),
        }
    }
    rule.matches.ports = ports.into();
}

fn document(object: &Object) -> Option<Value> {
    let named = |name: &ObjectName| {
        let namespace = (!name.namespace.is_empty()).then(|| text(&name.namespace));
        [("name", Some(text(&name.name))), ("namespace", namespace)]
    };
    let whole = |version: &str, kind: &str, metadata: Value, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
    let name = named(&object.name());
    Some(match object {
        Object::NetworkPolicy(policy) => {
            whole("networking.k8s.io/v1", "NetworkPolicy", fields(name), network_policy(policy))
        }
        Object::ClusterNetworkPolicy(policy) => whole(
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            fields(name),
            cluster_network_policy(policy),
        ),
        Object::Namespace(namespace) => {
            let own = namespace.labels.iter().filter(|(key, _)| *key != NAMESPACE_NAME_LABEL);
            let labels = labels(own.map(|(key, value)| (&**key, &**value)));
            let metadata = fields(name.into_iter().chain([("labels", labels)]));
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        }
        Object::Pod(pod) => {
            let metadata = fields(name.into_iter().chain([
                ("labels", labels(pod.labels.iter())),
                ("uid", pod.uid.map(|uid| text(format!("{uid:?}")))),
                ("deletionTimestamp", pod.terminating.then(|| text(DELETED_AT))),
            ]));
            let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": text(ip)})).collect();
            let phase = text(format!("{:?}", pod.phase));
            let status = fields([("phase", Some(phase)), ("podIPs", list(ips))]);
            let mut pod = whole("v1", "Pod", metadata, pod_spec(pod));
            pod["status"] = status;
            pod
        }
        Object::Node(node) => {
            node_document(node, fields(name.into_iter().chain(node_metadata(node))))
        }
        Object::Service(_) | Object::EndpointSlice(_) | Object::ServiceCidr(_) => return None,
    })
}

/// When the kubelet began to stop a pod, or a node began to leave.
const DELETED_AT: &str = "2026-01-01T00:00:00Z";

fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

/// An object with those fields that have a value.
fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

/// A list; none if it is empty.
fn list(items: Vec<Value>) -> Option<Value> {
    (!items.is_empty()).then_some(Value::Array(items))
}

fn labels<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Value> {
    let labels: BTreeMap<&str, &str> = labels.collect();
    (!labels.is_empty()).then(|| json!(labels))
}

fn selector(selector: &LabelSelector) -> Value {
    let mut equal: BTreeMap<&str, &str> = BTreeMap::new();
    let mut expressions = Vec::new();
    for requirement in selector.requirements() {
        let key = &*requirement.key;
        let texts = |values: &[Arc<str>]| values.iter().map(text).collect::<Vec<_>>();
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => match &**values {
                [value] if !equal.contains_key(key) => {
                    equal.insert(key, value);
                    continue;
                }
                _ => ("In", texts(values)),
            },
            Operator::NotIn(values) => ("NotIn", texts(values)),
            Operator::Exists => ("Exists", Vec::new()),
            Operator::DoesNotExist => ("DoesNotExist", Vec::new()),
        };
        let values = ("values", list(values));
        expressions.push(fields([
            ("key", Some(text(key))),
            ("operator", Some(text(operator))),
            values,
        ]));
    }
    let equal = labels(equal.into_iter());
    fields([("matchLabels", equal), ("matchExpressions", list(expressions))])
}

fn network_policy(policy: &NetworkPolicy) -> Value {
    let types = [("Ingress", &policy.ingress), ("Egress", &policy.egress)];
    let types = types.iter().filter(|(_, rules)| rules.is_some()).map(|(name, _)| text(name));
    let rules = |rules: &[PolicyRule], peers: &str| {
        let rule = |rule: &PolicyRule| {
            let of = rule.peers.iter().map(peer).collect();
            let ports = rule.ports.iter().map(policy_port).collect();
            fields([(peers, list(of)), ("ports", list(ports))])
        };
        list(rules.iter().map(rule).collect())
    };
    fields([
        ("podSelector", Some(selector(&policy.pod_selector))),
        ("policyTypes", list(types.collect())),
        ("ingress", policy.ingress.as_deref().and_then(|of| rules(of, "from"))),
        ("egress", policy.egress.as_deref().and_then(|of| rules(of, "to"))),
    ])
}

fn peer(peer: &PolicyPeer) -> Value {
    match peer {
        PolicyPeer::Pods { namespaces, pods } => {
            let of_pods = namespaces.is_none() || !pods.is_empty();
            fields([
                ("namespaceSelector", namespaces.as_ref().map(selector)),
                ("podSelector", of_pods.then(|| selector(pods))),
            ])
        }
        PolicyPeer::Block(block) => {
            let except = list(block.except.iter().map(text).collect());
            json!({"ipBlock": fields([("cidr", Some(text(block.cidr))), ("except", except)])})
        }
        // A peer without any field is not valid.
        PolicyPeer::Nodes(_) | PolicyPeer::Invalid(_) => json!({}),
    }
}

fn policy_port(port: &PolicyPort) -> Value {
    let (first, last) = match &port.ports {
        PortSpec::All => (None, None),
        PortSpec::Number(number) => (Some(json!(number.get())), None),
        PortSpec::Range(first, last) => (Some(json!(first.get())), Some(json!(last.get()))),
        PortSpec::Name(name) => (Some(text(name)), None),
        PortSpec::Invalid(_) => (Some(json!(0)), None),
    };
    let protocol = text(port.protocol);
    fields([("protocol", Some(protocol)), ("port", first), ("endPort", last)])
}

fn cluster_network_policy(policy: &ClusterNetworkPolicy) -> Value {
    let rules = |rules: &[ClusterRule], peers: &str| {
        list(rules.iter().map(|rule| cluster_rule(rule, peers)).collect())
    };
    let tier = match policy.tier {
        Tier::Admin => "Admin",
        Tier::Baseline => "Baseline",
    };
    fields([
        ("tier", Some(text(tier))),
        ("priority", Some(json!(policy.priority))),
        ("subject", Some(pods(&policy.subject.namespaces, &policy.subject.pods))),
        ("ingress", rules(&policy.ingress, "from")),
        ("egress", rules(&policy.egress, "to")),
    ])
}

/// Pods of a subject or a peer.
fn pods(namespaces: &LabelSelector, pods: &LabelSelector) -> Value {
    let namespaces = selector(namespaces);
    if pods.is_empty() {
        return json!({"namespaces": namespaces});
    }
    json!({"pods": {"namespaceSelector": namespaces, "podSelector": selector(pods)}})
}

/// A rule; one without peers is not valid.
fn cluster_rule(rule: &ClusterRule, peers: &str) -> Value {
    let action = match rule.action {
        RuleAction::Accept => "Accept",
        RuleAction::Deny => "Deny",
        RuleAction::Pass => "Pass",
    };
    let of = rule.matches.peers.iter().map(|peer| match peer {
        PolicyPeer::Pods { namespaces, pods: of } => {
            pods(namespaces.as_ref().unwrap_or(&LabelSelector::default()), of)
        }
        PolicyPeer::Block(block) => json!({"networks": [text(block.cidr)]}),
        PolicyPeer::Nodes(nodes) => json!({"nodes": selector(nodes)}),
        PolicyPeer::Invalid(_) => json!({}),
    });
    let protocols = rule.matches.ports.iter().filter_map(|port| {
        let ports = match &port.ports {
            PortSpec::Number(number) => json!({"number": number.get()}),
            PortSpec::Range(first, last) => {
                json!({"range": {"start": first.get(), "end": last.get()}})
            }
            // One entry is a port of each protocol.
            PortSpec::Name(name) if port.protocol == Protocol::Tcp => {
                return Some(json!({"destinationNamedPort": text(name)}));
            }
            PortSpec::Name(_) => return None,
            PortSpec::All | PortSpec::Invalid(_) => json!({}),
        };
        let protocol = port.protocol.name().to_ascii_lowercase();
        Some(json!({protocol: {"destinationPort": ports}}))
    });
    fields([
        ("name", (!rule.name.is_empty()).then(|| text(&rule.name))),
        ("action", Some(text(action))),
        (peers, list(of.collect())),
        ("protocols", list(protocols.collect())),
    ])
}

/// Each named port has a container: names are unique in a container only.
fn pod_spec(pod: &Pod) -> Value {
    let container = |at: usize, port: Option<&ContainerPort>| {
        let port = port.map(|port| {
            json!([{
                "name": text(&port.name),
                "protocol": text(port.protocol),
                "containerPort": port.port.get(),
            }])
        });
        let (name, image) = (Some(text(format!("c{at}"))), Some(text("pause")));
        fields([("name", name), ("image", image), ("ports", port)])
    };
    let mut containers: Vec<Value> =
        pod.ports.iter().enumerate().map(|(at, port)| container(at, Some(port))).collect();
    if containers.is_empty() {
        containers.push(container(0, None));
    }
    fields([
        ("nodeName", pod.node.as_ref().map(text)),
        ("hostNetwork", pod.host_network.then_some(json!(true))),
        ("containers", list(containers)),
    ])
}

fn node_metadata(node: &Node) -> [(&'static str, Option<Value>); 2] {
    let deleted_at = node.leaving.then(|| text(DELETED_AT));
    [("labels", labels(node.labels.iter())), ("deletionTimestamp", deleted_at)]
}

fn node_document(node: &Node, metadata: Value) -> Value {
    let addresses = |kind: &'static str, ips: &[std::net::IpAddr]| {
        ips.iter().map(|ip| json!({"type": kind, "address": text(ip)})).collect::<Vec<_>>()
    };
    let internal = addresses("InternalIP", &node.internal_ips);
    let all = [internal, addresses("ExternalIP", &node.external_ips)].concat();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": fields([("podCIDRs", list(node.pod_cidrs.iter().map(text).collect()))]),
        "status": fields([("addresses", list(all))]),
    })
}
