//! Whether rules for egress can match the container ports that they name.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::pods::Pods;
use super::super::rules::PortName;
use super::super::term::{GroupKey, Term};
use super::Checks;
use crate::index::Index;
use crate::model::{IpBlock, PolicyPeer};

/// What peers of a rule say about a port name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    /// None of the pods has such a port.
    Undefined,
    /// The peer matches no pod or is not valid, or not all pods are known.
    NotKnown,
    /// One of the pods has such a port.
    Defined,
}

/// Who lacks a container port with any of these names among the peers of a rule for egress; `None`: a pod has
/// one or may have one, or there are no such pods yet. `own` is the namespace of the policy.
pub fn who_lacks(
    index: &Index,
    pods: &Pods,
    own: &Arc<str>,
    peers: &[PolicyPeer],
    names: &[PortName],
    checks: Checks,
) -> Option<&'static str> {
    let is_defined = || names.iter().any(|name| pods.has_port(name));
    let knows_all = checks.knows_all();
    if peers.is_empty() {
        return (knows_all && !is_defined()).then_some("pod");
    }
    let of_peer = |peer: &PolicyPeer| match (peer, Term::new(peer, own)) {
        (PolicyPeer::Block(_), _) if !knows_all => Named::NotKnown,
        (PolicyPeer::Block(block), _) if has_pods(index, block) && is_defined() => Named::Defined,
        (PolicyPeer::Block(_) | PolicyPeer::Nodes(_), _) => Named::Undefined,
        (_, None) => Named::NotKnown,
        (_, Some(term)) => {
            let selects = |group: &GroupKey| is_selected(index, &term, group);
            if names.iter().flat_map(|name| pods.groups_with(name)).any(selects) {
                Named::Defined
            } else if checks.knows_pods_of(pods, &term) && pods.groups().any(selects) {
                Named::Undefined
            } else {
                Named::NotKnown
            }
        }
    };
    let of_rule = peers.iter().map(of_peer).max();
    (of_rule == Some(Named::Undefined)).then_some("peer")
}

fn is_selected(index: &Index, term: &Term, group: &GroupKey) -> bool {
    term.selects(index, &group.namespace, &group.labels)
}

/// Whether a block can have addresses of pods: without any pod range, it is not known.
fn has_pods(index: &Index, block: &IpBlock) -> bool {
    let mut ranges = index.pod_ranges().peekable();
    let overlaps = |range: IpNet| block.cidr.contains(&range) || range.contains(&block.cidr);
    ranges.peek().is_none() || ranges.any(overlaps)
}
