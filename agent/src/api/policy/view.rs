//! Rows from the objects and the compiled policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_abi::proto;
use sluice_core::Index;
use sluice_core::model::{ObjectName, PolicyPeer};
use sluice_core::policy::{Explanation, Finding, LocalPod, Policies, Query, RuleName, Verdict};

use super::any::{AnyPolicy, AnyRule};
use super::{
    Direction, FlowEnds, FlowPolicyRow, FlowQuery, JudgedEnd, PeerRow, PodPolicyRow, PodQuery,
    PolicyRow, RuleRef, RuleRow, VerdictRow,
};

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
        }
    }

    /// The rules of a policy for a direction.
    fn rules(self, policy: AnyPolicy<'a>, direction: Direction) -> Vec<RuleRow> {
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

    /// What the policies mean for a pod.
    pub fn pod(self, query: &PodQuery) -> PodPolicyRow {
        let (namespace, name) = query.pod.split_once('/').unwrap_or(("default", &query.pod));
        let name = ObjectName::new(namespace, name);
        let lease = self.local.iter().find(|pod| pod.name.as_ref() == Some(&name));
        let none = IpAddr::from([0, 0, 0, 0]);
        let judging = |direction| -> Vec<AnyPolicy<'_>> {
            let any = FlowQuery { direction, peer: none, protocol: proto::TCP, port: 0 };
            let names = self.explain(&name, any).isolating;
            names.iter().filter_map(|name| AnyPolicy::find(self.index, name)).collect()
        };
        let mut rules = Vec::new();
        let mut names = |direction| -> Vec<String> {
            let policies = judging(direction);
            rules.extend(policies.iter().flat_map(|policy| self.rules(*policy, direction)));
            policies.iter().map(|policy| policy.name().to_string()).collect()
        };
        let (ingress, egress) = (names(Direction::Ingress), names(Direction::Egress));
        PodPolicyRow {
            pod: name.to_string(),
            known: self.index.pod(&name).is_some(),
            address: lease.map(|pod| pod.address),
            ingress,
            egress,
            rules,
            verdict: query.flow.map(|flow| verdict(&self.explain(&name, flow))),
        }
    }

    fn explain(self, pod: &ObjectName, flow: FlowQuery) -> Explanation {
        let FlowQuery { direction, peer, protocol, port } = flow;
        let (pod, direction) = (pod.clone(), direction.into());
        let query = Query { pod, direction, peer, protocol, port };
        self.compiled.explain(self.index, &query)
    }

    /// What the policies decide about a flow. A flow of a pod to itself through a Service is judged like any
    /// other.
    pub fn flow(self, flow: &FlowEnds) -> FlowPolicyRow {
        let FlowEnds { client, server, protocol, port } = *flow;
        let end = |address, direction, peer| {
            let pod = self.local.iter().find(|pod| pod.address == address)?.name.as_ref()?;
            let query = FlowQuery { direction, peer, protocol, port };
            let verdict = verdict(&self.explain(pod, query));
            Some(JudgedEnd { pod: pod.to_string(), verdict })
        };
        FlowPolicyRow {
            egress: end(client, Direction::Egress, server),
            ingress: end(server, Direction::Ingress, client),
        }
    }
}

/// A verdict as text.
pub fn verdict(Explanation { peers, isolating, verdict }: &Explanation) -> VerdictRow {
    let (allowed, reasons) = match verdict {
        Verdict::NotIsolated if isolating.is_empty() => {
            (true, vec!["no policy isolates the pod".to_owned()])
        }
        Verdict::NotIsolated => {
            let text = "no ClusterNetworkPolicy accepts or denies it, and no NetworkPolicy isolates \
                        the pod";
            (true, vec![text.to_owned()])
        }
        Verdict::Allowed(RuleName { policy, rule }) => {
            (true, vec![format!("rule {rule} of {policy} allows it")])
        }
        Verdict::DeniedBy(refusal) => (false, vec![refusal.text.clone()]),
        Verdict::Denied(near) => (false, near.iter().map(|miss| miss.text.clone()).collect()),
        Verdict::Pending => {
            let text = "the Pod or its Namespace is not known yet, and a policy may select the Pod: \
                        nothing passes";
            (false, vec![text.to_owned()])
        }
        Verdict::Closed(reason) => (false, vec![format!("the pod is closed: {}", reason.name())]),
    };
    let rule = match verdict {
        Verdict::Allowed(RuleName { policy, rule }) => {
            Some(RuleRef { policy: policy.to_string(), rule: *rule })
        }
        _ => None,
    };
    VerdictRow { allowed, peers: peers.iter().map(ToString::to_string).collect(), reasons, rule }
}
