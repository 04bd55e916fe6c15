//! Rows from the objects and the compiled policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_abi::proto;
use sluice_core::Index;
use sluice_core::model::{Node, ObjectName, PolicyPeer};
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

    /// What the policies mean for a pod.
    pub fn pod(self, query: &PodQuery) -> PodPolicyRow {
        let (namespace, name) = query.pod.split_once('/').unwrap_or(("default", &query.pod));
        let name = ObjectName::new(namespace, name);
        let lease = self.local.iter().find(|pod| pod.name.as_ref() == Some(&name));
        let none = IpAddr::from([0, 0, 0, 0]);
        let mut rules = Vec::new();
        let mut judged = |direction| -> (Vec<String>, Option<String>) {
            let any = FlowQuery { direction, peer: none, protocol: proto::TCP, port: 0 };
            let Explanation { isolating, verdict, .. } = self.explain(&name, any);
            let policies = isolating.iter().filter_map(|name| AnyPolicy::find(self.index, name));
            let policies: Vec<AnyPolicy<'_>> = policies.collect();
            rules.extend(policies.iter().flat_map(|policy| self.rules(*policy, direction)));
            (policies.iter().map(|policy| policy.name().to_string()).collect(), closed(&verdict))
        };
        let (ingress, ingress_closed) = judged(Direction::Ingress);
        let (egress, egress_closed) = judged(Direction::Egress);
        let pod = self.index.pod(&name);
        let verdict = query.flow.map(|flow| {
            let mut verdict = verdict(&self.explain(&name, flow));
            let mut addresses = self.node.into_iter().flat_map(Node::addresses);
            let is_of_node = flow.direction == Direction::Ingress
                && lease.is_some()
                && addresses.any(|address| address == flow.peer);
            if is_of_node {
                verdict.allowed = true;
                verdict.reasons.insert(0, OF_NODE.to_owned());
            }
            verdict
        });
        PodPolicyRow {
            pod: name.to_string(),
            known: pod.is_some(),
            host_network: lease.is_none() && pod.is_some_and(|pod| pod.host_network),
            address: lease.map(|pod| pod.address),
            ingress,
            egress,
            ingress_closed,
            egress_closed,
            rules,
            verdict,
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

/// For a client with an address of the pod's node.
const OF_NODE: &str = "processes of the pod's own node always reach it; of what the node forwards with its own \
                       address:";
const NOT_KNOWN: &str =
    "the Pod or its Namespace is not known yet, and a policy may select the Pod";

/// Why nothing passes, whatever the rules.
fn closed(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Pending => Some(NOT_KNOWN.to_owned()),
        Verdict::Closed(closing) => Some(format!("{} ({})", closing.text, closing.reason.name())),
        _ => None,
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
        Verdict::HostNetwork => {
            let text = "the pod uses the network of its node: policies do not apply to it";
            (true, vec![text.to_owned()])
        }
        Verdict::Pending | Verdict::Closed(_) => {
            let reason = closed(verdict).map(|reason| format!("nothing passes: {reason}"));
            (false, reason.into_iter().collect())
        }
    };
    let rule = match verdict {
        Verdict::Allowed(RuleName { policy, rule }) => {
            Some(RuleRef { policy: policy.to_string(), rule: *rule })
        }
        _ => None,
    };
    VerdictRow { allowed, peers: peers.iter().map(ToString::to_string).collect(), reasons, rule }
}
