//! What policies mean for a pod, and for a flow of it.
//!
//! ```text
//! destination --translate--> endpoints --judge--> verdict at the pod, and at the other end if it is a pod
//! ```
//! A destination that a Service, a NodePort or a hostPort translates is judged as its endpoints are, as in the
//! programs.

use std::net::IpAddr;

use sluice_abi::proto;
use sluice_core::ObjectName;
use sluice_core::model::{Node, Pod};
use sluice_core::policy::{Explanation, LocalPod, NearMiss, Query, RuleName, Verdict};

use super::any::AnyPolicy;
use super::{
    Direction, FlowEnds, FlowPeer, FlowPolicyRow, FlowQuery, FlowRow, JudgedEnd, JudgedFlow,
    NearRule, PodPolicyRow, PodQuery, PolicyView, RuleRef, VerdictRow,
};

/// Endpoints that are judged at most.
const ENDPOINTS: usize = 16;

/// For a client with an address of the pod's node.
const OF_NODE: &str = "processes of the pod's own node always reach it; of what the node forwards with its own \
                       address:";
/// For a destination that the pod itself has.
const OWN_ADDRESS: &str = "what a pod sends to its own address does not leave it";
/// For a Service that leads back to the pod.
const OWN_ENDPOINT: &str = "the pod itself is the endpoint: connections of sockets do not leave it; of packets that \
                            are translated later:";
const NOT_KNOWN: &str =
    "the Pod or its Namespace is not known yet, and a policy may select the Pod";

/// Where packets to an address and port go instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// What translates: `Service shop/web (ClusterIP)`, `hostPort`.
    pub by: String,
    /// The endpoints, one of which gets a connection.
    pub endpoints: Vec<(IpAddr, u16)>,
    /// Why there are none.
    pub problem: Option<String>,
}

/// Finds what translates an address, port and protocol.
pub type Translate<'a> = dyn Fn(IpAddr, u16, u8) -> Option<Translation> + 'a;

/// A flow with both ends known, from or to the pod that was asked for.
#[derive(Clone, Copy)]
struct OneFlow {
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
}

impl<'a> PolicyView<'a> {
    /// What the policies mean for a pod.
    pub fn pod(self, query: &PodQuery, translate: &Translate<'_>) -> PodPolicyRow {
        let name = full_name(&query.pod);
        let lease = self.lease(&name);
        let mut rules = Vec::new();
        let mut judged = |direction| -> (Vec<String>, Option<String>) {
            let Explanation { isolating, verdict, .. } = self.explain_any(&name, direction);
            let policies = isolating.iter().filter_map(|name| AnyPolicy::find(self.index, name));
            let policies: Vec<AnyPolicy<'_>> = policies.collect();
            rules.extend(policies.iter().flat_map(|policy| self.rules(*policy, direction)));
            (policies.iter().map(|policy| policy.name().to_string()).collect(), closed(&verdict))
        };
        let (ingress, ingress_closed) = judged(Direction::Ingress);
        let (egress, egress_closed) = judged(Direction::Egress);
        let pod = self.index.pod(&name);
        let node = pod.filter(|_| lease.is_none()).and_then(|pod| pod.node.as_ref());
        PodPolicyRow {
            pod: name.to_string(),
            known: pod.is_some(),
            host_network: lease.is_none() && pod.is_some_and(|pod| pod.host_network),
            address: lease.map(|pod| pod.address),
            node: node.filter(|node| ***node != *self.index.node_name()).map(ToString::to_string),
            ingress,
            egress,
            ingress_closed,
            egress_closed,
            rules,
            flow: query.flow.as_ref().map(|flow| self.flow_of(&name, flow, translate)),
        }
    }

    /// What happens to a flow of a pod.
    fn flow_of(self, pod: &ObjectName, flow: &FlowQuery, translate: &Translate<'_>) -> FlowRow {
        let FlowQuery { direction, peer, protocol, port } = flow;
        let (direction, protocol, port) = (*direction, *protocol, *port);
        let (address, named) = match peer {
            FlowPeer::Address(address) => (Some(*address), None),
            FlowPeer::Pod(name) => {
                let named = full_name(name);
                let own = self.address(pod, None);
                (self.address(&named, own), Some(named))
            }
        };
        let Some(address) = address else {
            let problem =
                "the other Pod has no address, does not exist, or the agent does not watch it";
            return FlowRow { problem: Some(problem.to_owned()), ..FlowRow::default() };
        };
        let one = |peer, port| OneFlow { direction, peer, protocol, port };
        let translation = match direction {
            Direction::Egress if !self.is_own(pod, address) => translate(address, port, protocol),
            _ => None,
        };
        let Some(Translation { by, endpoints, problem }) = translation else {
            let judged = vec![self.judge(pod, one(address, port), named, false)];
            return FlowRow { judged, ..FlowRow::default() };
        };
        let (first, others) = endpoints.split_at(endpoints.len().min(ENDPOINTS));
        let judged =
            first.iter().map(|(peer, port)| self.judge(pod, one(*peer, *port), None, true));
        FlowRow { translated_by: Some(by), problem, judged: judged.collect(), more: others.len() }
    }

    /// The verdicts about a flow at the pod, and at the other end.
    fn judge(
        self,
        pod: &ObjectName,
        flow: OneFlow,
        named: Option<ObjectName>,
        is_translated: bool,
    ) -> JudgedFlow {
        let explanation = self.explain(pod, flow);
        let mut verdict = verdict(&explanation);
        let OneFlow { direction, peer, port, .. } = flow;
        let passes = |reason: &str, mut verdict: VerdictRow| {
            verdict.allowed = true;
            verdict.reasons.insert(0, reason.to_owned());
            verdict
        };
        let mut addresses = self.node.into_iter().flat_map(Node::addresses);
        let is_own = self.is_own(pod, peer);
        let is_hairpin = is_own && is_translated;
        if is_own && !is_translated {
            let none = VerdictRow { peers: verdict.peers, ..VerdictRow::default() };
            verdict = passes(OWN_ADDRESS, none);
        } else if is_hairpin && !self.judges_hairpin(pod) {
            verdict = passes(OWN_ENDPOINT, verdict);
        } else if direction == Direction::Ingress
            && self.lease(pod).is_some()
            && addresses.any(|address| address == peer)
        {
            verdict = passes(OF_NODE, verdict);
        }
        let other = match (named, &explanation.peers[..]) {
            (Some(named), _) => Some(named),
            (None, [one]) => Some(one.clone()),
            (None, _) => None,
        };
        let is_judged = |other: &ObjectName| match other == pod {
            true => is_hairpin && self.judges_hairpin(pod),
            false => self.has_policies(other),
        };
        let other = other.filter(is_judged);
        let other_end = other.and_then(|other| {
            let direction = direction.opposite();
            let own = self.address(pod, Some(peer))?;
            let verdict =
                super::verdict(&self.explain(&other, OneFlow { direction, peer: own, ..flow }));
            Some(JudgedEnd { pod: other.to_string(), verdict })
        });
        JudgedFlow { peer, port, verdict, other_end }
    }

    /// Whether what a pod sends to itself by a Service leaves it: ClusterNetworkPolicies decide about it.
    fn judges_hairpin(self, pod: &ObjectName) -> bool {
        [Direction::Ingress, Direction::Egress].into_iter().any(|direction| {
            // Names of NetworkPolicies have a namespace.
            self.explain_any(pod, direction)
                .isolating
                .iter()
                .any(|policy| policy.namespace.is_empty())
        })
    }

    /// Whether policies apply to a pod.
    fn has_policies(self, pod: &ObjectName) -> bool {
        self.index.pod(pod).is_some_and(|pod| !pod.host_network)
    }

    fn lease(self, pod: &ObjectName) -> Option<&'a LocalPod> {
        self.local.iter().find(|lease| lease.name.as_ref() == Some(pod))
    }

    /// The address of a pod, of the family of another one if that is given.
    fn address(self, pod: &ObjectName, family: Option<IpAddr>) -> Option<IpAddr> {
        let of_object = self.index.pod(pod).into_iter().flat_map(|pod: &Pod| pod.ips.iter());
        let mut addresses = self.lease(pod).map(|lease| lease.address).into_iter().chain(of_object);
        addresses.find(|address| family.is_none_or(|other| other.is_ipv4() == address.is_ipv4()))
    }

    /// Whether an address is that of a pod, seen by itself.
    fn is_own(self, pod: &ObjectName, address: IpAddr) -> bool {
        let is_object =
            |object: &Pod| !object.host_network && object.ips.iter().any(|a| a == address);
        self.lease(pod).is_some_and(|lease| lease.address == address)
            || self.index.pod(pod).is_some_and(is_object)
            || address.is_loopback()
    }

    /// What does not depend on the flow: which policies isolate the pod, and whether it is closed.
    fn explain_any(self, pod: &ObjectName, direction: Direction) -> Explanation {
        let peer = IpAddr::from([0, 0, 0, 0]);
        self.explain(pod, OneFlow { direction, peer, protocol: proto::TCP, port: 0 })
    }

    fn explain(self, pod: &ObjectName, flow: OneFlow) -> Explanation {
        let OneFlow { direction, peer, protocol, port } = flow;
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
            let flow = OneFlow { direction, peer, protocol, port };
            let verdict = verdict(&self.explain(pod, flow));
            Some(JudgedEnd { pod: pod.to_string(), verdict })
        };
        FlowPolicyRow {
            egress: end(client, Direction::Egress, server),
            ingress: end(server, Direction::Ingress, client),
        }
    }
}

/// `namespace/name`; a name alone is in `default`.
pub fn full_name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectName::new(namespace, name)
}

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
        Verdict::Allowed(rule) => Some(rule),
        Verdict::DeniedBy(refusal) => Some(&refusal.rule),
        _ => None,
    };
    let nearest = match verdict {
        Verdict::Denied(near) => &near[..],
        _ => &[],
    };
    let near_rule = |miss: &NearMiss| NearRule { policy: miss.policy.to_string(), rule: miss.rule };
    VerdictRow {
        allowed,
        peers: peers.iter().map(ToString::to_string).collect(),
        reasons,
        rule: rule
            .map(|RuleName { policy, rule }| RuleRef { policy: policy.to_string(), rule: *rule }),
        nearest: nearest.iter().map(near_rule).collect(),
    }
}
