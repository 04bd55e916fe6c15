//! Rows from the objects and the compiled policies.

use std::collections::BTreeSet;

use sluice_core::Index;
use sluice_core::model::{Node, PolicyPeer};
use sluice_core::policy::{Finding, LocalPod, Policies, unused_rules};

use super::any::{AnyPolicy, AnyRule};
use super::{Direction, PeerRow, PolicyRow, RuleRow};

/// What the rows are made of.
#[derive(Clone, Copy, Debug)]
pub struct PolicyView<'a> {
    /// All objects.
    pub index: &'a Index,
    /// The compiled policies.
    pub compiled: &'a Policies,
    /// The pods of this node.
    pub local: &'a [LocalPod],
    /// Problems.
    pub findings: &'a BTreeSet<Finding>,
    /// The node of the agent, if it is known.
    pub node: Option<&'a Node>,
}

impl<'a> PolicyView<'a> {
    /// The row of a policy, with its rules if it is the only one that is asked for.
    pub fn policy(self, policy: AnyPolicy<'a>, details: bool) -> PolicyRow {
        let local = self.local.iter().filter_map(|pod| self.index.pod(pod.name.as_ref()?));
        let both = [Direction::Ingress, Direction::Egress];
        let name = policy.name();
        let problems = self
            .findings
            .iter()
            .filter(|finding| finding.kind == policy.kind() && finding.object == name);
        let (tier, priority) = policy.order();
        let selects = |pod| policy.selects(self.index, pod);
        PolicyRow {
            policy: name.to_string(),
            tier,
            priority,
            pod_selector: policy.subject(),
            directions: both.into_iter().filter(|direction| policy.has(*direction)).collect(),
            local_pods: local.filter(|pod| selects(pod)).count(),
            pods: details.then(|| self.index.pods().filter(|pod| selects(pod)).count()),
            rule_count: both.iter().map(|direction| policy.rules(*direction).len()).sum(),
            rules: if details {
                both.into_iter().flat_map(|direction| self.rules(policy, direction)).collect()
            } else {
                Vec::new()
            },
            problems: problems.map(|finding| finding.text.clone()).collect(),
            warnings: match policy {
                AnyPolicy::Namespaced(policy) if details => unused_rules(policy).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The rules of a policy for a direction.
    pub(super) fn rules(self, policy: AnyPolicy<'a>, direction: Direction) -> Vec<RuleRow> {
        let rules = policy.rules(direction).into_iter().enumerate();
        rules.map(|(at, rule)| self.rule(policy, direction, at, rule)).collect()
    }

    fn rule(
        self,
        policy: AnyPolicy<'a>,
        direction: Direction,
        at: usize,
        rule: AnyRule<'a>,
    ) -> RuleRow {
        let peer = |peer: &PolicyPeer| PeerRow {
            peer: peer.to_string(),
            pods: policy.matching_pods(self.index, peer),
            nodes: match peer {
                PolicyPeer::Nodes(selector) => Some(self.index.nodes_with(selector).count()),
                _ => None,
            },
            does_not_fit: !self.compiled.has_addresses_of(peer),
        };
        let (matches, cluster) = (rule.matches(), rule.cluster());
        let name = cluster.map(|rule| rule.name.to_string()).filter(|name| !name.is_empty());
        RuleRow {
            policy: policy.name().to_string(),
            direction,
            rule: at,
            name,
            action: cluster.map(|rule| rule.action.into()),
            invalid: cluster.and_then(|rule| Some(rule.invalid.as_ref()?.to_string())),
            ports: matches.ports.iter().map(ToString::to_string).collect(),
            peers: matches.peers.iter().map(peer).collect(),
        }
    }
}
