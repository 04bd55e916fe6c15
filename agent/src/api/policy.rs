//! NetworkPolicies and what they mean for a pod -> rows of a response.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_abi::{PolicyDirection, proto};
use sluice_core::Index;
use sluice_core::model::{Kind, NetworkPolicy, ObjectName, Pod, PolicyPeer, PolicyRule};
use sluice_core::policy::{Explanation, Finding, LocalPod, Policies, Question, Verdict};

/// Conditions on a [`PolicyRow`]; an absent one accepts every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyFilter {
    /// Part of `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `namespace/name` of the one policy of which everything is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A pod, and one side of a flow if a verdict is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodQuestion {
    /// `namespace/name`.
    pub pod: String,
    /// The flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowQuestion>,
}

/// One side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowQuestion {
    /// Whether the pod opens or receives the flow.
    pub direction: Direction,
    /// The other end: the destination after translation, or the original client.
    pub peer: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port after translation.
    pub port: u16,
}

/// Direction of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// What the pod receives.
    Ingress,
    /// What the pod sends.
    Egress,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// `namespace/name`.
    pub policy: String,
    /// Selector of its pods; empty: all of the namespace.
    pub pod_selector: String,
    /// Directions that it isolates.
    pub directions: Vec<Direction>,
    /// Pods of this node that it selects.
    pub local_pods: usize,
    /// Pods of the cluster that it selects; of a single policy only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// Number of rules.
    pub rule_count: usize,
    /// Its rules; of a single policy only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRow>,
    /// What cannot work as written.
    pub problems: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRow {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Direction.
    pub direction: Direction,
    /// Position in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// Ports, empty: all.
    pub ports: Vec<String>,
    /// Peers, empty: all.
    pub peers: Vec<PeerRow>,
}

/// Peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Selectors or block, as text.
    pub peer: String,
    /// Pods that the selectors match; absent for a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
}

/// What policies mean for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPolicyRow {
    /// `namespace/name`.
    pub pod: String,
    /// Whether a Pod of this name is known.
    pub known: bool,
    /// Address of the pod on this node; absent for a pod of another node, whose agent isolates it.
    pub address: Option<IpAddr>,
    /// Policies that isolate what it receives.
    pub ingress: Vec<String>,
    /// Policies that isolate what it sends.
    pub egress: Vec<String>,
    /// Their rules.
    pub rules: Vec<RuleRow>,
    /// The verdict on the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictRow>,
}

/// What policies decide about one side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictRow {
    /// Whether it passes.
    pub allowed: bool,
    /// Pods with the address of the other end.
    pub peers: Vec<String>,
    /// Why; of a denied flow, the nearest rule first.
    pub reasons: Vec<String>,
}

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
}

impl From<PolicyDirection> for Direction {
    fn from(direction: PolicyDirection) -> Direction {
        match direction {
            PolicyDirection::Ingress => Direction::Ingress,
            PolicyDirection::Egress => Direction::Egress,
        }
    }
}

impl From<Direction> for PolicyDirection {
    fn from(direction: Direction) -> PolicyDirection {
        match direction {
            Direction::Ingress => PolicyDirection::Ingress,
            Direction::Egress => PolicyDirection::Egress,
        }
    }
}

impl PolicyFilter {
    /// Whether a policy matches every condition.
    pub fn matches(&self, name: &ObjectName) -> bool {
        let full = name.to_string();
        self.text.as_deref().is_none_or(|text| full.contains(text))
            && self.namespace.as_deref().is_none_or(|namespace| *name.namespace == *namespace)
            && self.name.as_deref().is_none_or(|name| full == name)
    }
}

impl PolicyView<'_> {
    /// The row of a policy, with its rules if it is the only one that is asked for.
    pub fn policy(&self, policy: &NetworkPolicy, details: bool) -> PolicyRow {
        let selected = |pod: &Pod| {
            pod.name.namespace == policy.name.namespace
                && !pod.host_network
                && policy.pod_selector.matches(|key| pod.labels.get(key))
        };
        let local = self.local.iter().filter_map(|pod| self.index.pod(pod.name.as_ref()?));
        let isolated = [
            (Direction::Ingress, policy.ingress.is_some()),
            (Direction::Egress, policy.egress.is_some()),
        ];
        let rules = [&policy.ingress, &policy.egress];
        let problems = self
            .findings
            .iter()
            .filter(|finding| finding.kind == Kind::NetworkPolicy && finding.object == policy.name);
        PolicyRow {
            policy: policy.name.to_string(),
            pod_selector: policy.pod_selector.to_string(),
            directions: isolated.iter().filter(|(_, is)| *is).map(|(d, _)| *d).collect(),
            local_pods: local.filter(|pod| selected(pod)).count(),
            pods: details.then(|| self.index.pods().filter(|pod| selected(pod)).count()),
            rule_count: rules.iter().map(|r| r.as_ref().map_or(0, |rules| rules.len())).sum(),
            rules: if details { self.rules(policy, |_| true) } else { Vec::new() },
            problems: problems.map(|finding| finding.text.clone()).collect(),
        }
    }

    /// The rules of a policy in the directions that are wanted.
    fn rules(&self, policy: &NetworkPolicy, wanted: impl Fn(Direction) -> bool) -> Vec<RuleRow> {
        let both = [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)];
        let wanted = both.into_iter().filter(|(direction, _)| wanted(*direction));
        let rules = wanted.flat_map(|(direction, rules)| {
            let rules = rules.iter().flatten().enumerate();
            rules.map(move |(at, rule)| (direction, at, rule))
        });
        rules.map(|(direction, at, rule)| self.rule(policy, direction, at, rule)).collect()
    }

    fn rule(
        &self,
        policy: &NetworkPolicy,
        direction: Direction,
        rule: usize,
        PolicyRule { peers, ports }: &PolicyRule,
    ) -> RuleRow {
        let peer = |peer: &PolicyPeer| PeerRow {
            peer: peer.to_string(),
            pods: match peer {
                PolicyPeer::Pods { .. } => Some(self.matching_pods(policy, peer)),
                PolicyPeer::Block(_) | PolicyPeer::Invalid(_) => None,
            },
        };
        RuleRow {
            policy: policy.name.to_string(),
            direction,
            rule,
            ports: ports.iter().map(ToString::to_string).collect(),
            peers: peers.iter().map(peer).collect(),
        }
    }

    fn matching_pods(&self, policy: &NetworkPolicy, peer: &PolicyPeer) -> usize {
        let PolicyPeer::Pods { namespaces, pods } = peer else { return 0 };
        let in_namespace = |pod: &Pod| match namespaces {
            None => pod.name.namespace == policy.name.namespace,
            Some(selector) => self.index.namespace(&pod.name.namespace).is_some_and(|namespace| {
                selector.matches(|key| namespace.labels.get(key).map(String::as_str))
            }),
        };
        let is_peer = |pod: &&Pod| {
            !pod.host_network
                && !pod.phase.is_over()
                && pods.matches(|key| pod.labels.get(key))
                && in_namespace(pod)
        };
        self.index.pods().filter(is_peer).count()
    }

    /// What the policies mean for a pod.
    pub fn pod(&self, question: &PodQuestion) -> PodPolicyRow {
        let (namespace, name) = question.pod.split_once('/').unwrap_or(("default", &question.pod));
        let name = ObjectName::new(namespace, name);
        let lease = self.local.iter().find(|pod| pod.name.as_ref() == Some(&name));
        let explain = |direction: Direction, peer, protocol, port| {
            let (pod, direction) = (name.clone(), direction.into());
            let question = Question { pod, direction, peer, protocol, port };
            self.compiled.explain(self.index, &question)
        };
        let none = IpAddr::from([0, 0, 0, 0]);
        let isolating = |direction| explain(direction, none, proto::TCP, 0).isolating;
        let (ingress, egress) = (isolating(Direction::Ingress), isolating(Direction::Egress));
        let mut rules = Vec::new();
        for (policies, direction) in [(&ingress, Direction::Ingress), (&egress, Direction::Egress)]
        {
            let policies = policies.iter().filter_map(|name| self.index.network_policy(name));
            rules.extend(policies.flat_map(|policy| self.rules(policy, |d| d == direction)));
        }
        let texts = |names: &[ObjectName]| names.iter().map(ToString::to_string).collect();
        PodPolicyRow {
            pod: name.to_string(),
            known: self.index.pod(&name).is_some(),
            address: lease.map(|pod| pod.address),
            ingress: texts(&ingress),
            egress: texts(&egress),
            rules,
            verdict: question
                .flow
                .map(|f| verdict(&explain(f.direction, f.peer, f.protocol, f.port))),
        }
    }
}

/// A verdict as text.
pub fn verdict(Explanation { peers, verdict, .. }: &Explanation) -> VerdictRow {
    let (allowed, reasons) = match verdict {
        Verdict::NotIsolated => (true, vec!["no policy isolates the pod".to_owned()]),
        Verdict::Allowed(rule) => {
            (true, vec![format!("rule {} of {} allows it", rule.rule, rule.policy)])
        }
        Verdict::Denied(near) => (false, near.iter().map(|miss| miss.text.clone()).collect()),
        Verdict::Pending => {
            let text = "the Pod is not known, and its namespace has policies: nothing passes yet";
            (false, vec![text.to_owned()])
        }
        Verdict::Closed(reason) => (false, vec![format!("the pod is closed: {}", reason.name())]),
    };
    VerdictRow { allowed, peers: peers.iter().map(ToString::to_string).collect(), reasons }
}

#[cfg(test)]
mod tests;
