//! ClusterNetworkPolicy, from the API documentation (policy.networking.k8s.io/v1alpha2).

use super::{Cluster, Flow, Side, is_port};
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, Object, ObjectName, PolicyPeer, PortSpec, RuleAction, Tier,
};

/// Whether a rule matches a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// Not everything is known of the peer.
    Either,
}

impl<'a> Cluster<'a> {
    fn cluster_policies(self) -> impl Iterator<Item = &'a ClusterNetworkPolicy> {
        self.objects.iter().filter_map(|o| match o {
            Object::ClusterNetworkPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    /// Whether a pod without known labels may be the subject of a policy with rules.
    pub(super) fn may_be_subject(self, pod: &ObjectName) -> bool {
        let known = self.namespace(&pod.namespace).is_some();
        self.cluster_policies().any(|policy| {
            policy.has_rules() && (!known || self.is_in(&pod.namespace, &policy.subject.namespaces))
        })
    }

    /// The rules of a tier for a pod and direction, in the order in which they are evaluated; `None` if the
    /// labels of its namespace matter and are not known.
    pub(super) fn rules(self, flow: Flow<'a>, tier: Tier) -> Option<Vec<&'a ClusterRule>> {
        let namespace = &flow.pod.name.namespace;
        let known = self.namespace(namespace).is_some();
        let mut of_tier: Vec<&ClusterNetworkPolicy> = Vec::new();
        for policy in self.cluster_policies() {
            let subject = &policy.subject;
            if !known && policy.has_rules() && !subject.namespaces.is_empty() {
                return None;
            }
            if policy.tier == tier
                && self.is_in(namespace, &subject.namespaces)
                && subject.pods.matches(|key| flow.pod.labels.get(key))
            {
                of_tier.push(policy);
            }
        }
        of_tier.sort_by_key(|policy| (policy.priority, policy.name.to_string()));
        let rules = of_tier.into_iter().flat_map(|policy| match flow.side {
            Side::Egress => policy.egress.iter(),
            Side::Ingress => policy.ingress.iter(),
        });
        Some(rules.collect())
    }

    /// Whether a flow passes in each case that is possible: with and without each rule that may match.
    pub(super) fn all_cases(
        self,
        flow: Flow<'a>,
        rules: &[&ClusterRule],
        next: &dyn Fn() -> bool,
    ) -> bool {
        let Some((first, others)) = rules.split_first() else { return next() };
        let matches = if first.is_valid() {
            self.matches(first, flow)
        } else if first.action == RuleAction::Accept {
            Match::No
        } else {
            // Everything is denied.
            return false;
        };
        let with = || match first.action {
            RuleAction::Accept => true,
            RuleAction::Deny => false,
            RuleAction::Pass => next(),
        };
        let without = || self.all_cases(flow, others, next);
        match matches {
            Match::Yes => with(),
            Match::No => without(),
            Match::Either => with() && without(),
        }
    }

    fn matches(self, rule: &ClusterRule, flow: Flow<'a>) -> Match {
        let is_uncertain = self.is_uncertain(flow);
        let peers = any(rule.matches.peers.iter().map(|peer| match peer {
            PolicyPeer::Pods { namespaces, pods } => {
                let owners = self.owners(flow.peer);
                let is_selected = owners.iter().all(|pod| {
                    let namespace = &pod.name.namespace;
                    namespaces.as_ref().is_some_and(|selector| self.is_in(namespace, selector))
                        && pods.matches(|key| pod.labels.get(key))
                });
                let selects_every_pod =
                    namespaces.as_ref().is_some_and(|n| n.is_empty()) && pods.is_empty();
                let is_pod = !owners.is_empty() || self.in_pod_range(flow.peer);
                match is_selected && !owners.is_empty() || is_pod && selects_every_pod {
                    true => Match::Yes,
                    false if is_uncertain => Match::Either,
                    false => Match::No,
                }
            }
            PolicyPeer::Block(block) => certain(block.cidr.contains(&flow.peer)),
            PolicyPeer::Nodes(selector) => certain(self.objects.iter().any(|o| match o {
                Object::Node(node) => {
                    selector.matches(|key| node.labels.get(key))
                        && (node.internal_ips.contains(&flow.peer)
                            || node.external_ips.contains(&flow.peer))
                }
                _ => false,
            })),
            PolicyPeer::Invalid(_) => Match::No,
        }));
        if rule.matches.ports.is_empty() {
            return peers;
        }
        let ports = any(rule.matches.ports.iter().map(|port| {
            let is_name = matches!(port.ports, PortSpec::Name(_));
            let is_protocol = port.protocol.number() == flow.protocol;
            match is_port(port, flow.protocol, flow.port, &self.named(flow)) {
                true => Match::Yes,
                false if is_name && is_protocol && is_uncertain && flow.side == Side::Egress => {
                    Match::Either
                }
                false => Match::No,
            }
        }));
        match (peers, ports) {
            (Match::No, _) | (_, Match::No) => Match::No,
            (Match::Yes, Match::Yes) => Match::Yes,
            _ => Match::Either,
        }
    }

    /// Whether not everything is known of the pod that has the peer's address.
    fn is_uncertain(self, flow: Flow<'a>) -> bool {
        let owners = self.owners(flow.peer);
        match &*owners {
            [] => self.in_pod_range(flow.peer),
            [pod] => self.namespace(&pod.name.namespace).is_none(),
            _ => true,
        }
    }
}

fn certain(matches: bool) -> Match {
    if matches { Match::Yes } else { Match::No }
}

fn any(matches: impl Iterator<Item = Match>) -> Match {
    let mut result = Match::No;
    for one in matches {
        match one {
            Match::Yes => return Match::Yes,
            Match::Either => result = Match::Either,
            Match::No => {}
        }
    }
    result
}
