//! ClusterNetworkPolicies. The conversion fails closed, as the API requires for peers without a known
//! field; Sluice extends this to every other part. A rule with Accept then matches nothing, every other
//! rule denies everything. An unreadable tier or priority is Admin with priority 0, an unreadable subject every pod.
//!
//! The API server rejects most of it; a manifest can have it, and a later version of the API has fields
//! that this one does not know.

use std::sync::Arc;

use sluice_abi::PolicyDirection;
use sluice_core::model::{
    ClusterNetworkPolicy, ClusterRule, IpBlock, Kind, LabelSelector, Object, PolicyPeer,
    PolicyPort, PolicyRule, Port, PortSpec, Protocol, RuleAction, Subject, Tier, Uid, parse_cidr,
};

use super::api_types::{ClusterPeer, ClusterProtocol, DestinationPort, Obj, Part, Unknown};
use super::network_policy::{is_port_name, selector_of};
use super::{ConvertError, api_types, cluster_name};

/// Highest priority number.
const PRIORITY_MAX: u16 = 1000;

/// Converts a ClusterNetworkPolicy.
pub fn cluster_network_policy(o: api_types::ClusterNetworkPolicy) -> Result<Object, ConvertError> {
    let name = cluster_name(Kind::ClusterNetworkPolicy, &o.metadata)?;
    let uid = o.metadata.uid.as_deref().and_then(Uid::from_api);
    let spec = match o.spec {
        Part(Ok(Obj(spec))) => spec,
        Part(Err(problem)) => {
            let problem = format!("spec cannot be read ({problem})");
            let rules = || [denies_all(problem.clone())].into();
            return Ok(Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
                name: name.into(),
                subject: every_pod(&problem),
                ingress: rules(),
                egress: rules(),
                uid,
                ..ClusterNetworkPolicy::default()
            }));
        }
    };
    let mut ingress = rules(spec.ingress, PolicyDirection::Ingress);
    let mut egress = rules(spec.egress, PolicyDirection::Egress);
    let order = order_of(spec.tier, spec.priority, &spec.unknown);
    let subject = subject_of(spec.subject).map_err(|problem| format!("subject: {problem}"));
    for rule in ingress.iter_mut().chain(&mut egress) {
        let problem = match (&order, &subject) {
            (Err(problem), _) => problem,
            (Ok(_), Err(problem)) if rule.action != RuleAction::Deny => problem,
            _ => continue,
        };
        rule.invalid.get_or_insert_with(|| problem.as_str().into());
    }
    let (tier, priority) = order.unwrap_or_default();
    Ok(Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
        name: name.into(),
        tier,
        priority,
        subject: subject.unwrap_or_else(|problem| every_pod(&problem)),
        ingress: ingress.into(),
        egress: egress.into(),
        uid,
    }))
}

/// Every pod, because the subject is not known.
fn every_pod(problem: &str) -> Subject {
    Subject { invalid: Some(problem.into()), ..Subject::default() }
}

/// A rule that is not known at all.
fn denies_all(problem: String) -> ClusterRule {
    ClusterRule {
        name: "".into(),
        action: RuleAction::Deny,
        matches: PolicyRule::default(),
        invalid: Some(problem.into()),
    }
}

/// Tier and priority. Where the policy takes effect is not known if one of them is not valid, or if the
/// policy has fields that are not known.
fn order_of(
    tier: Part<Option<String>>,
    priority: Part<Option<i64>>,
    unknown: &Unknown,
) -> Result<(Tier, u16), String> {
    no_unknown(unknown)?;
    let tier = match tier.0.map_err(|problem| format!("tier: {problem}"))?.as_deref() {
        Some("Admin") => Tier::Admin,
        Some("Baseline") => Tier::Baseline,
        Some(tier) => return Err(format!("tier: {tier:?} is not Admin or Baseline")),
        None => return Err("tier: is required".to_owned()),
    };
    let priority = priority.0.map_err(|problem| format!("priority: {problem}"))?;
    let priority = priority.ok_or("priority: is required")?;
    let valid = u16::try_from(priority).ok().filter(|p| *p <= PRIORITY_MAX);
    let problem = || format!("priority: {priority} is not between 0 and {PRIORITY_MAX}");
    Ok((tier, valid.ok_or_else(problem)?))
}

fn no_unknown(unknown: &Unknown) -> Result<(), String> {
    let first = unknown.keys().next();
    first.map_or(Ok(()), |field| Err(format!("field {field:?} is not known")))
}

fn subject_of(subject: Part<Option<Obj<api_types::Subject>>>) -> Result<Subject, String> {
    let Some(Obj(subject)) = subject.0? else { return Err("is required".to_owned()) };
    let (namespaces, pods) = match (subject.namespaces, subject.pods) {
        (Some(namespaces), None) => all_pods(namespaces)?,
        (None, Some(pods)) => some_pods(pods)?,
        (None, None) => return Err("has none of namespaces and pods".to_owned()),
        (Some(_), Some(_)) => return Err("has both namespaces and pods".to_owned()),
    };
    Ok(Subject { namespaces, pods, invalid: None })
}

/// Selectors of namespaces and pods.
type Selectors = (LabelSelector, LabelSelector);

fn all_pods(Obj(namespaces): Obj<api_types::LabelSelector>) -> Result<Selectors, String> {
    let namespaces = selector_of(namespaces).map_err(|problem| format!("namespaces: {problem}"))?;
    Ok((namespaces, LabelSelector::default()))
}

fn some_pods(Obj(pods): Obj<api_types::NamespacedPods>) -> Result<Selectors, String> {
    let selector = |field: &'static str, Obj(selector)| {
        selector_of(selector).map_err(|problem| format!("pods.{field}: {problem}"))
    };
    let pod_selector = pods.pod_selector.ok_or("pods.podSelector: is required")?;
    let namespaces = selector("namespaceSelector", pods.namespace_selector)?;
    Ok((namespaces, selector("podSelector", pod_selector)?))
}

fn rules(
    rules: Part<Vec<Part<Obj<api_types::ClusterRule>>>>,
    direction: PolicyDirection,
) -> Vec<ClusterRule> {
    match rules {
        Part(Ok(rules)) => rules.into_iter().map(|rule| rule_of(rule, direction)).collect(),
        Part(Err(problem)) => vec![denies_all(format!("the list cannot be read ({problem})"))],
    }
}

fn rule_of(rule: Part<Obj<api_types::ClusterRule>>, direction: PolicyDirection) -> ClusterRule {
    let rule = match rule {
        Part(Ok(Obj(rule))) => rule,
        Part(Err(problem)) => return denies_all(format!("the rule cannot be read ({problem})")),
    };
    let api_types::ClusterRule { name, action, from, to, protocols, unknown } = rule;
    let action = match action.0.map_err(|problem| format!("action: {problem}")) {
        Err(problem) => Err(problem),
        Ok(action) => match action.as_deref() {
            Some("Accept") => Ok(RuleAction::Accept),
            Some("Deny") => Ok(RuleAction::Deny),
            Some("Pass") => Ok(RuleAction::Pass),
            Some(action) => Err(format!("action: {action:?} is not Accept, Deny or Pass")),
            None => Err("action: is required".to_owned()),
        },
    };
    let (peers, field, other, other_field) = match direction {
        PolicyDirection::Ingress => (from, "from", to, "to"),
        PolicyDirection::Egress => (to, "to", from, "from"),
    };
    let matches = || {
        no_unknown(&unknown)?;
        if !matches!(other, Part(Ok(None))) {
            return Err(format!("{other_field} is of the other direction"));
        }
        let peers = peers_of(peers, direction).map_err(|problem| format!("{field}{problem}"))?;
        let ports = ports_of(protocols).map_err(|problem| format!("protocols{problem}"))?;
        let named = ports.iter().any(|port| matches!(port.ports, PortSpec::Name(_)));
        if named && peers.iter().any(|peer| !matches!(peer, PolicyPeer::Pods { .. })) {
            return Err("destinationNamedPort requires peers that are pods".to_owned());
        }
        Ok(PolicyRule { peers: peers.into(), ports: ports.into() })
    };
    let name: Arc<str> = name.0.ok().flatten().unwrap_or_default().into();
    let invalid = |action, problem: String| ClusterRule {
        name: Arc::clone(&name),
        action,
        matches: PolicyRule::default(),
        invalid: Some(problem.into()),
    };
    match (action, matches()) {
        (Err(problem), _) => invalid(RuleAction::Deny, problem),
        (Ok(action), Err(problem)) => invalid(action, problem),
        (Ok(action), Ok(matches)) => ClusterRule { name, action, matches, invalid: None },
    }
}

/// At least one peer. Problems begin with the position.
fn peers_of(
    peers: Part<Option<Vec<Part<Obj<ClusterPeer>>>>>,
    direction: PolicyDirection,
) -> Result<Vec<PolicyPeer>, String> {
    let peers = peers.0.map_err(|problem| format!(": {problem}"))?.unwrap_or_default();
    if peers.is_empty() {
        return Err(": has no entry".to_owned());
    }
    let mut all = Vec::with_capacity(peers.len());
    for (at, Part(peer)) in peers.into_iter().enumerate() {
        let peer = peer.and_then(|Obj(peer)| peer_of(peer, direction));
        all.extend(peer.map_err(|problem| format!("[{at}]: {problem}"))?);
    }
    Ok(all)
}

fn peer_of(peer: ClusterPeer, direction: PolicyDirection) -> Result<Vec<PolicyPeer>, String> {
    let ClusterPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let fields = [
        ("namespaces", namespaces.is_some()),
        ("pods", pods.is_some()),
        ("nodes", nodes.is_some()),
        ("networks", networks.is_some()),
        ("domainNames", domain_names.is_some()),
    ];
    let set: Vec<&str> = fields.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    let [field] = set[..] else {
        return Err(if set.is_empty() {
            "has no field that this version of Sluice supports".to_owned()
        } else {
            format!("has {}; write one peer for each", set.join(" and "))
        });
    };
    if direction == PolicyDirection::Ingress && !matches!(field, "namespaces" | "pods") {
        return Err(format!("{field} is for egress only"));
    }
    let pods_of =
        |(namespaces, pods)| vec![PolicyPeer::Pods { namespaces: Some(namespaces), pods }];
    if let Some(namespaces) = namespaces {
        return all_pods(namespaces).map(pods_of);
    }
    if let Some(pods) = pods {
        return some_pods(pods).map(pods_of);
    }
    if let Some(Obj(nodes)) = nodes {
        let nodes = selector_of(nodes).map_err(|problem| format!("nodes: {problem}"))?;
        return Ok(vec![PolicyPeer::Nodes(nodes)]);
    }
    match networks {
        Some(networks) if networks.is_empty() => Err("networks: has no entry".to_owned()),
        Some(networks) => networks.iter().enumerate().map(block_of).collect(),
        None => Err("domainNames is not supported".to_owned()),
    }
}

fn block_of((at, network): (usize, &String)) -> Result<PolicyPeer, String> {
    let problem = || format!("networks[{at}]: {network:?} is not a CIDR such as 10.0.0.0/8");
    let cidr = parse_cidr(network).ok_or_else(problem)?;
    Ok(PolicyPeer::Block(IpBlock { cidr, except: [].into() }))
}

/// Every protocol and port if the list is absent. Problems begin with the position.
fn ports_of(
    protocols: Part<Option<Vec<Part<Obj<ClusterProtocol>>>>>,
) -> Result<Vec<PolicyPort>, String> {
    let Some(protocols) = protocols.0.map_err(|problem| format!(": {problem}"))? else {
        return Ok(Vec::new());
    };
    if protocols.is_empty() {
        return Err(": has no entry".to_owned());
    }
    let mut all = Vec::with_capacity(protocols.len());
    for (at, Part(protocol)) in protocols.into_iter().enumerate() {
        let ports = protocol.and_then(|Obj(protocol)| protocol_of(protocol));
        all.extend(ports.map_err(|problem| format!("[{at}]: {problem}"))?);
    }
    Ok(all)
}

fn protocol_of(protocol: ClusterProtocol) -> Result<Vec<PolicyPort>, String> {
    let ClusterProtocol { tcp, udp, sctp, destination_named_port } = protocol;
    let numbered =
        [("tcp", Protocol::Tcp, tcp), ("udp", Protocol::Udp, udp), ("sctp", Protocol::Sctp, sctp)];
    let mut set = numbered.into_iter().filter_map(|(field, p, port)| Some((field, p, port?)));
    match (set.next(), set.next(), destination_named_port) {
        (Some((field, protocol, Obj(port))), None, None) => {
            let ports = port_of(port).map_err(|problem| format!("{field}.{problem}"))?;
            Ok(vec![PolicyPort { protocol, ports }])
        }
        (None, None, Some(name)) if is_port_name(&name) => {
            let port =
                |protocol| PolicyPort { protocol, ports: PortSpec::Name(name.as_str().into()) };
            Ok(Protocol::ALL.map(port).into())
        }
        (None, None, Some(name)) => {
            Err(format!("destinationNamedPort: {name:?} is not the name of a port"))
        }
        (None, None, None) => Err("has no field that this version of Sluice supports".to_owned()),
        _ => Err("has several fields; write one entry for each".to_owned()),
    }
}

fn port_of(port: DestinationPort) -> Result<PortSpec, String> {
    let Some(Obj(port)) = port.destination_port else {
        return Err("destinationPort: is required".to_owned());
    };
    let number = |field: &str, number: i64| {
        let problem = || format!("destinationPort.{field}: {number} is not between 1 and 65535");
        Port::new(number).ok_or_else(problem)
    };
    match (port.number, port.range) {
        (Some(port), None) => Ok(PortSpec::Number(number("number", port)?)),
        (None, Some(Obj(range))) => {
            let start = number("range.start", range.start)?;
            let end = number("range.end", range.end)?;
            let problem = || format!("destinationPort.range: {end} is lower than {start}");
            (start <= end).then_some(PortSpec::Range(start, end)).ok_or_else(problem)
        }
        (None, None) => Err("destinationPort: has none of number and range".to_owned()),
        (Some(_), Some(_)) => Err("destinationPort: has both number and range".to_owned()),
    }
}
