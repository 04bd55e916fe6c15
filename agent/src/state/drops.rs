//! The last dropped packets, with the policies that dropped them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::SystemTime;

use sluice_abi::{DropEvent, DropReason, PolicyDirection};
use sluice_core::ObjectName;
use sluice_core::policy::{Explanation, Question, Verdict};

use super::State;

/// Drops that are kept.
const KEPT: usize = 1024;
/// Policies that are counted by name; the others are counted together.
const COUNTED: usize = 200;

/// A sampled drop.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// Its number, which grows over restarts of the agent.
    pub sequence: u64,
    /// When the agent received the event.
    pub at: SystemTime,
    /// The event.
    pub event: DropEvent,
    /// The pod whose policies dropped it, and why.
    pub policy: Option<(ObjectName, PolicyDirection, Explanation)>,
}

/// The last drops, and the number of those by policies.
#[derive(Debug, Default)]
pub struct Drops {
    kept: VecDeque<Dropped>,
    next: u64,
    by_policy: BTreeMap<(String, String), u64>,
}

impl State {
    /// Takes events in.
    pub(super) fn add_drops(&mut self, events: Vec<DropEvent>) {
        if self.drops.next == 0 {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            self.drops.next = since.map_or(1, |since| since.as_millis() as u64);
        }
        for event in events {
            let policy = self.explain_drop(&event);
            if let Some((_, _, explanation)) = &policy {
                self.drops.count(explanation);
            }
            let Drops { kept, next, .. } = &mut self.drops;
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Dropped { sequence: *next, at: SystemTime::now(), event, policy });
            *next += 1;
        }
    }

    /// The drops with this number and later ones.
    pub fn drops_from(&self, sequence: u64) -> impl Iterator<Item = &Dropped> {
        self.drops.kept.iter().filter(move |drop| drop.sequence >= sequence)
    }

    /// Sampled drops by namespace and name of the policy that denies them or is nearest to allowing them. A
    /// ClusterNetworkPolicy has no namespace; both are empty for drops of further policies.
    pub fn drops_by_policy(&self) -> &BTreeMap<(String, String), u64> {
        &self.drops.by_policy
    }

    fn explain_drop(
        &self,
        event: &DropEvent,
    ) -> Option<(ObjectName, PolicyDirection, Explanation)> {
        let flow = event.flow;
        let (src, dst): (IpAddr, IpAddr) = (flow.src.into(), flow.dst.into());
        let of = |address| {
            let pod = self.policy_pods().iter().find(|pod| pod.address == address)?;
            pod.name.clone()
        };
        let (pod, direction, peer) = match DropReason::from_number(event.reason)? {
            DropReason::PolicyEgress => (of(src)?, PolicyDirection::Egress, dst),
            DropReason::PolicyIngress => (of(dst)?, PolicyDirection::Ingress, src),
            DropReason::PolicyPending => match of(src) {
                Some(pod) => (pod, PolicyDirection::Egress, dst),
                None => (of(dst)?, PolicyDirection::Ingress, src),
            },
            _ => return None,
        };
        let (protocol, port) = (flow.proto, flow.dport.get());
        let question = Question { pod: pod.clone(), direction, peer, protocol, port };
        let explanation = self.policies().explain(self.index(), &question);
        Some((pod, direction, explanation))
    }
}

impl Drops {
    fn count(&mut self, explanation: &Explanation) {
        let nearest = match &explanation.verdict {
            Verdict::DeniedBy(refusal) => Some(&refusal.rule.policy),
            Verdict::Denied(near) => near.first().map(|miss| &miss.policy),
            _ => None,
        };
        let name = nearest.or(explanation.isolating.first());
        let name = name.map(|name| (name.namespace.to_string(), name.name.to_string()));
        let known =
            name.filter(|name| self.by_policy.len() < COUNTED || self.by_policy.contains_key(name));
        *self.by_policy.entry(known.unwrap_or_default()).or_default() += 1;
    }
}
