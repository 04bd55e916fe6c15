//! What ClusterNetworkPolicies decide, rule by rule.

use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::selection::subject_selects;
use super::super::{DenyingRule, RuleName, Verdict, describe};
use super::{Flow, Peer};
use crate::index::Index;
use crate::model::{
    self, ClusterNetworkPolicy, ClusterRule, ObjectName, Pod, PolicyPeer, PolicyPort, PortSpec,
    RuleAction,
};

/// The policies of a tier that select a pod and have rules for a direction, in their order.
#[derive(Default)]
pub struct Tier<'a>(Vec<(&'a ClusterNetworkPolicy, &'a [ClusterRule])>);

/// Whether a rule matches. It may match a peer of which not everything is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Maybe,
    Yes,
}

impl<'a> Tier<'a> {
    /// The policies of a tier.
    pub fn of(
        index: &'a Index,
        direction: PolicyDirection,
        pod: &Pod,
        tier: model::Tier,
    ) -> Tier<'a> {
        let selects = |policy: &&ClusterNetworkPolicy| {
            let (namespace, labels) = (&pod.name.namespace, &pod.labels);
            policy.tier == tier && subject_selects(index, &policy.subject, namespace, labels)
        };
        let rules = |policy: &'a ClusterNetworkPolicy| (policy, policy.rules(direction));
        let policies = index.cluster_network_policies().filter(selects).map(rules);
        let mut policies: Vec<_> = policies.filter(|(_, rules)| !rules.is_empty()).collect();
        policies.sort_by_key(|(policy, _)| (policy.priority, &policy.name));
        Tier(policies)
    }

    /// Names of the policies.
    pub fn names(&self) -> impl Iterator<Item = ObjectName> {
        self.0.iter().map(|(policy, _)| policy.object_name())
    }

    /// The peers of valid rules that do not accept, with their policies.
    pub fn not_accepted(&self) -> impl Iterator<Item = (&'a ClusterNetworkPolicy, &'a PolicyPeer)> {
        self.0.iter().flat_map(|(policy, rules)| {
            let rules = rules.iter().filter(|rule| rule.is_valid());
            let rules = rules.filter(|rule| rule.action != RuleAction::Accept);
            rules.flat_map(|rule| &rule.matches.peers).map(|peer| (*policy, peer))
        })
    }

    /// What the tier decides, or the next one.
    pub fn verdict(&self, flow: &Flow<'_>, next: &dyn Fn() -> Verdict) -> Verdict {
        let mut may_pass = false;
        for (policy, rules) in &self.0 {
            for (at, rule) in rules.iter().enumerate() {
                let name = || RuleName { policy: policy.object_name(), rule: at };
                let (action, matches) = flow.matches(rule);
                match (action, matches) {
                    (_, Match::No) | (RuleAction::Accept, Match::Maybe) => {}
                    (RuleAction::Accept, Match::Yes) => {
                        let allowed = Verdict::Allowed(name());
                        let later = if may_pass { next() } else { allowed.clone() };
                        let passes = matches!(later, Verdict::Allowed(_) | Verdict::NotIsolated);
                        return if passes { allowed } else { later };
                    }
                    (RuleAction::Deny, _) => {
                        let text = flow.describe_refusal(policy, rule, matches);
                        return Verdict::DeniedBy(DenyingRule { rule: name(), text });
                    }
                    (RuleAction::Pass, Match::Yes) => return next(),
                    (RuleAction::Pass, Match::Maybe) => may_pass = true,
                }
            }
        }
        next()
    }
}

impl Peer<'_> {
    /// Whether rules that deny may select it, whatever they select.
    fn is_uncertain(&self, index: &Index) -> bool {
        match &*self.pods {
            [] => self.in_pod_range,
            [pod] => index.namespace(&pod.name.namespace).is_none(),
            _ => true,
        }
    }
}

impl Flow<'_> {
    /// What a rule does, and whether it matches.
    fn matches(&self, rule: &ClusterRule) -> (RuleAction, Match) {
        if !rule.is_valid() {
            return match rule.action {
                RuleAction::Accept => (RuleAction::Accept, Match::No),
                RuleAction::Deny | RuleAction::Pass => (RuleAction::Deny, Match::Yes),
            };
        }
        let is_uncertain = self.peer.is_uncertain(self.index);
        let own = Arc::default();
        let of_peer = |peer: &PolicyPeer| {
            if self.distance(&own, peer) == 0 {
                Match::Yes
            } else if is_uncertain && matches!(peer, PolicyPeer::Pods { .. }) {
                Match::Maybe
            } else {
                Match::No
            }
        };
        let named = self.named();
        let is_egress = self.query.direction == PolicyDirection::Egress;
        let of_port = |port: &PolicyPort| {
            let is_name = matches!(port.ports, PortSpec::Name(_));
            if self.admits(port, &named) {
                Match::Yes
            } else if is_uncertain
                && is_egress
                && is_name
                && port.protocol.number() == self.query.protocol
            {
                Match::Maybe
            } else {
                Match::No
            }
        };
        let peers = rule.matches.peers.iter().map(of_peer).max().unwrap_or(Match::No);
        let ports = rule.matches.ports.iter().map(of_port).max().unwrap_or(Match::Yes);
        (rule.action, peers.min(ports))
    }

    /// "no-metadata denies TCP 80 to 169.254.169.254/32".
    fn describe_refusal(
        &self,
        policy: &ClusterNetworkPolicy,
        rule: &ClusterRule,
        matches: Match,
    ) -> String {
        let name = &policy.name;
        if let Some(problem) = &rule.invalid {
            return format!("{name} denies everything: {problem}");
        }
        let preposition = describe::preposition(self.query.direction);
        let peers: Vec<String> = rule.matches.peers.iter().map(ToString::to_string).collect();
        let ports = describe::ports(&rule.matches.ports);
        let title = match &*rule.name {
            "" => String::new(),
            title => format!(" ({title})"),
        };
        let peers = peers.join(", ");
        let text = format!("{name}{title} denies {ports} {preposition} {peers}");
        match matches {
            Match::Maybe => {
                format!(
                    "{text}; {} may be such a peer, not everything is known of it",
                    self.peer.address
                )
            }
            _ => text,
        }
    }
}
