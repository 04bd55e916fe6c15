//! The NetworkPolicies of a pod: the rule that allows a flow, or the rules that are nearest to it.

use sluice_abi::PolicyDirection;

use super::super::{NearMiss, RuleName, Verdict, describe};
use super::Flow;
use super::peers::BY_PORTS;
use crate::model::{NetworkPolicy, PolicyPeer, PolicyRule};

/// Rules that are described at most.
const NEAREST: usize = 8;

/// A rule that does not allow a flow.
struct Miss<'a> {
    policy: &'a NetworkPolicy,
    /// Its position; `None`: the policy has no rule.
    rule: Option<(usize, &'a PolicyRule)>,
    /// The nearest peer, unless anyone is one.
    nearest: Option<&'a PolicyPeer>,
    /// Whether it misses the flow by its ports.
    by_ports: bool,
}

/// What NetworkPolicies that isolate a pod decide.
pub fn judge(flow: &Flow<'_>, isolating: &[(&NetworkPolicy, &[PolicyRule])]) -> Verdict {
    let named = flow.named();
    // By distance, then by name and position.
    let mut missed: Vec<((u32, u32), Miss<'_>)> = Vec::new();
    for (policy, rules) in isolating {
        for (at, rule) in rules.iter().enumerate() {
            let by_ports =
                !rule.ports.is_empty() && !rule.ports.iter().any(|port| flow.admits(port, &named));
            let distances =
                rule.peers.iter().map(|peer| (flow.distance(&policy.name.namespace, peer), peer));
            let nearest = distances.min_by_key(|(distance, _)| *distance);
            let by_peers = nearest.map_or(0, |(distance, _)| distance);
            if !by_ports && by_peers == 0 {
                return Verdict::Allowed(RuleName { policy: policy.name.clone(), rule: at });
            }
            let both = u32::from(by_ports && by_peers > 0);
            let distance = if by_peers == 0 { BY_PORTS } else { by_peers };
            let nearest = nearest.map(|(_, peer)| peer);
            missed.push((
                (both, distance),
                Miss { policy, rule: Some((at, rule)), nearest, by_ports },
            ));
        }
        if rules.is_empty() {
            let none = Miss { policy, rule: None, nearest: None, by_ports: false };
            missed.push(((2, 0), none));
        }
    }
    missed.sort_by_key(|(distance, _)| *distance);
    let near = missed.into_iter().take(NEAREST).map(|(_, miss)| NearMiss {
        policy: miss.policy.name.clone(),
        rule: miss.rule.map(|(at, _)| at),
        text: miss.describe(flow),
    });
    Verdict::Denied(near.collect())
}

impl Miss<'_> {
    /// "shop/db allows TCP 5432 from role=api; the client has role=web".
    fn describe(&self, flow: &Flow<'_>) -> String {
        let (policy, query) = (&self.policy.name, flow.query);
        let Some((_, rule)) = self.rule else {
            return format!("{policy} allows no {}", describe::direction(query.direction));
        };
        let preposition = describe::preposition(query.direction);
        let end = match query.direction {
            PolicyDirection::Egress => "server",
            PolicyDirection::Ingress => "client",
        };
        let peers = match self.nearest {
            None => "anyone".to_owned(),
            Some(peer) if rule.peers.len() == 1 => peer.to_string(),
            Some(peer) => format!("{peer} and {} more", rule.peers.len() - 1),
        };
        let ports = describe::ports(&rule.ports);
        let mut why = Vec::new();
        if let Some(peer) = self.nearest
            && flow.distance(&policy.namespace, peer) > 0
        {
            why.push(format!("the {end} {}", flow.difference(&policy.namespace, peer)));
        }
        if self.by_ports {
            why.push(format!("the flow is {}", describe::target(query.protocol, query.port)));
        }
        format!("{policy} allows {ports} {preposition} {peers}; {}", why.join(", "))
    }
}
