//! How far the peers of rules are from the other end of a flow.

use std::sync::Arc;

use super::super::term::Term;
use super::{Flow, Peer};
use crate::model::{LabelSelector, Pod, PolicyPeer};

/// Distance of a peer that matches, but whose addresses do not fit into the map.
const DOES_NOT_FIT: u32 = 1;
/// Distance of a rule whose peers match, but not its ports. Each label that does not match adds 1.
pub const BY_PORTS: u32 = 2;
const NAMESPACE: u32 = 50;
const ADDRESS: u32 = 500;

impl Flow<'_> {
    /// How far a peer of a rule is from the other end; 0 if it matches. `own` is the namespace of the policy.
    pub fn distance(&self, own: &Arc<str>, peer: &PolicyPeer) -> u32 {
        let Some(term) = Term::new(peer, own) else { return u32::MAX };
        let distance = self.as_written(own, peer, &term, self.peer);
        let is_in_maps = self.maps.is_none_or(|maps| maps.has_term(&term));
        if distance == 0 && !is_in_maps { DOES_NOT_FIT } else { distance }
    }

    /// As [`Flow::distance`], whether it fits into the maps or not.
    fn as_written(&self, own: &Arc<str>, peer: &PolicyPeer, term: &Term, other: &Peer<'_>) -> u32 {
        let index = self.index;
        match (peer, term) {
            (_, Term::Block(block)) => {
                let outside = block.except.iter().any(|except| except.contains(&other.address));
                match (block.cidr.contains(&other.address), outside) {
                    (true, false) => 0,
                    (true, true) => NAMESPACE,
                    (false, _) => ADDRESS,
                }
            }
            (PolicyPeer::Pods { namespaces, pods }, term) => {
                if other.pods.is_empty() {
                    return if term.is_every_pod() && other.in_pod_range { 0 } else { ADDRESS };
                }
                let of_pod = |pod: &&Pod| {
                    if term.selects(index, &pod.name.namespace, &pod.labels) {
                        return 0;
                    }
                    let labels = failing(pods, |key| pod.labels.get(key)).count();
                    let namespace = match namespaces {
                        None => usize::from(pod.name.namespace != *own),
                        Some(selector) => match index.namespace(&pod.name.namespace) {
                            Some(n) => {
                                failing(selector, |k| n.labels.get(k).map(String::as_str)).count()
                            }
                            None => usize::from(!selector.is_empty()),
                        },
                    };
                    let labels = u32::try_from(labels).unwrap_or(NAMESPACE);
                    BY_PORTS + labels + NAMESPACE * u32::from(namespace > 0)
                };
                other.pods.iter().map(of_pod).max().unwrap_or(ADDRESS)
            }
            (PolicyPeer::Nodes(selector), _) => {
                let mut nodes = index.nodes_with(selector);
                let is_of_node = nodes.any(|node| node.addresses().any(|a| a == other.address));
                if is_of_node { 0 } else { ADDRESS }
            }
            _ => u32::MAX,
        }
    }

    /// What the other end has instead of what a peer requires: "has role=web".
    pub fn difference(&self, own: &Arc<str>, peer: &PolicyPeer) -> String {
        let address = self.peer.address;
        if self.distance(own, peer) == DOES_NOT_FIT {
            let what = match peer {
                PolicyPeer::Block(block) => format!("block {}", block.cidr),
                _ => "list of addresses of nodes".to_owned(),
            };
            return format!("has {address}, but the {what} does not fit into the map of networks");
        }
        match peer {
            PolicyPeer::Invalid(text) => format!("cannot match: {text}"),
            PolicyPeer::Block(block) => {
                let except = block.except.iter().find(|except| except.contains(&address));
                match except.filter(|_| block.cidr.contains(&address)) {
                    Some(except) => format!("has {address} in the exception {except}"),
                    None => format!("has the address {address}"),
                }
            }
            PolicyPeer::Nodes(_) => format!("has the address {address}"),
            PolicyPeer::Pods { namespaces, pods } => {
                let apart = |pod: &&&Pod| {
                    let one = Peer { pods: vec![**pod], ..*self.peer };
                    let term = Term::new(peer, own);
                    term.is_none_or(|term| self.as_written(own, peer, &term, &one) > 0)
                };
                let Some(pod) = self.peer.pods.iter().find(apart) else {
                    return self.without_pod();
                };
                let namespace = &pod.name.namespace;
                let mut parts = Vec::new();
                match namespaces {
                    None if namespace != own => {
                        parts.push(format!("is in namespace {namespace}"));
                    }
                    Some(selector) if !selector.is_empty() => {
                        match self.index.namespace(namespace) {
                            None => parts
                                .push(format!("is in namespace {namespace}, which is not known")),
                            Some(n) => {
                                let has =
                                    values(selector, |key| n.labels.get(key).map(String::as_str));
                                if !has.is_empty() {
                                    parts.push(format!("is in namespace {namespace} with {has}"));
                                }
                            }
                        }
                    }
                    _ => {}
                }
                let has = values(pods, |key| pod.labels.get(key));
                if !has.is_empty() {
                    parts.push(format!("has {has}"));
                }
                parts.join(" and ")
            }
        }
    }

    /// What an address is that no pod has, as far as the maps are concerned.
    fn without_pod(&self) -> String {
        let address = self.peer.address;
        let kind = match *self.peer {
            Peer { unclassed: true, .. } => "a pod that does not fit into the map of peers",
            Peer { in_pod_range: true, .. } => "a pod that is not known",
            _ => "not a pod",
        };
        format!("{address} is {kind}")
    }
}

/// The requirements that labels do not meet.
fn failing<'a, 'b: 'a>(
    selector: &'a LabelSelector,
    label: impl Fn(&str) -> Option<&'b str> + 'a,
) -> impl Iterator<Item = &'a Arc<str>> + 'a {
    let requirements = selector.requirements().iter();
    requirements.filter(move |r| !r.operator.accepts(label(&r.key))).map(|r| &r.key)
}

/// The values of the labels that requirements do not accept: "role=web, no label tier".
fn values<'b>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'b str>) -> String {
    let mut keys: Vec<_> = failing(selector, &label).collect();
    keys.dedup();
    let value = |key: &Arc<str>| match label(key) {
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    };
    keys.into_iter().map(value).collect::<Vec<_>>().join(", ")
}
