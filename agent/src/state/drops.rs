//! The last dropped packets, with the policies that dropped them.
//!
//! A reason takes a few microseconds with few rules, but milliseconds with ten thousand. Drops of one flow
//! have one reason until an object changes, and the loop limits the time that reasons take: drops beyond it
//! are kept without.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use sluice_abi::{DropEvent, DropReason, PolicyDirection};
use sluice_core::model::Labels;
use sluice_core::policy::{Explanation, Query, Verdict};
use sluice_core::{Index, ObjectName};

use super::State;
use crate::event::DroppedPacket;

/// Drops that are kept.
const KEPT: usize = 1024;
/// Policies that are counted by name; the others are counted together.
const COUNTED: usize = 200;
/// Namespace and name under which they are.
const OTHERS: (String, String) = (String::new(), String::new());

/// Reasons that are kept for further drops of the same kind.
const REASONS: usize = 1024;

/// A pod at an end of a dropped packet.
#[derive(Clone, Debug)]
pub struct DroppedPod {
    /// Namespace and name.
    pub name: ObjectName,
    /// Its labels at that time.
    pub labels: Labels,
}

/// The policies of a pod that dropped a packet.
#[derive(Clone, Debug)]
pub struct DroppedBy {
    /// The pod.
    pub pod: ObjectName,
    /// Whether it sent the packet.
    pub direction: PolicyDirection,
    /// Why; `None`: there were too many different drops at that time.
    pub explanation: Option<Arc<Explanation>>,
}

/// A sampled drop.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// Its number: the next drop has the next one.
    pub sequence: u64,
    /// Number of the first drop: milliseconds since the epoch, so that numbers grow over restarts of the agent
    /// unless the clock is set back.
    pub first_sequence: u64,
    /// When.
    pub at: SystemTime,
    /// The event.
    pub event: DropEvent,
    /// Name of the device of the hook, if it exists.
    pub device: Option<String>,
    /// Pods with the source address: normally one.
    pub sources: Vec<DroppedPod>,
    /// Pods with the destination address.
    pub destinations: Vec<DroppedPod>,
    /// What dropped it, if it is a drop by policies.
    pub policy: Option<DroppedBy>,
}

/// The last drops, and the number of those by policies.
#[derive(Debug, Default)]
pub struct Drops {
    kept: VecDeque<Dropped>,
    by_policy: BTreeMap<(String, String), u64>,
    /// Reasons since the last change of an object.
    reasons: HashMap<Query, Arc<Explanation>>,
}

impl State {
    /// Policies were changed or deleted: the numbers of those that were deleted end, and their places are free.
    pub(super) fn forget_deleted_policies(&mut self) {
        let index = &self.index;
        self.drops.by_policy.retain(|policy, _| *policy == OTHERS || exists(index, policy));
    }

    /// An object or a lease changed.
    pub(super) fn forget_reasons(&mut self) {
        self.drops.reasons.clear();
    }

    /// Takes events in. Reasons that are not known are looked for while `has_time` is true.
    pub(super) fn add_drops(&mut self, packets: Vec<DroppedPacket>, has_time: impl Fn() -> bool) {
        for DroppedPacket { at, event } in packets {
            let policy = self.explain_drop(&event, &has_time);
            if let Some(DroppedBy { explanation, .. }) = &policy {
                self.drops.count(explanation.as_deref(), &self.index);
            }
            let pods = |address: IpAddr| match policy {
                Some(_) => self.pods_of(address),
                None => Vec::new(),
            };
            let sources = pods(event.flow.src.into());
            let destinations = pods(event.flow.dst.into());
            let link = self.host.links.iter().find(|link| link.index == event.ifindex);
            let device = link.map(|link| link.name.clone());
            let kept = &mut self.drops.kept;
            let (sequence, first_sequence) = match kept.back() {
                Some(last) => (last.sequence + 1, last.first_sequence),
                None => {
                    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    let first = since_epoch.as_millis() as u64;
                    (first, first)
                }
            };
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Dropped {
                sequence,
                first_sequence,
                at,
                event,
                device,
                sources,
                destinations,
                policy,
            });
        }
    }

    /// Number of reasons that are kept.
    #[cfg(test)]
    pub(crate) fn kept_reasons(&self) -> usize {
        self.drops.reasons.len()
    }

    /// The drops with this number and later ones.
    pub fn drops_from(&self, sequence: u64) -> impl Iterator<Item = &Dropped> {
        self.drops.kept.iter().filter(move |drop| drop.sequence >= sequence)
    }

    /// Number of the first drop since the agent started, if there was one.
    pub fn first_drop(&self) -> Option<u64> {
        self.drops.kept.back().map(|drop| drop.first_sequence)
    }

    /// Sampled drops by namespace and name of the policy that denies them or is nearest to allowing them. A
    /// ClusterNetworkPolicy has no namespace; both are empty for drops of policies that had no place when they
    /// dropped, and for drops without a reason. The number of a policy ends with it.
    pub fn drops_by_policy(&self) -> &BTreeMap<(String, String), u64> {
        &self.drops.by_policy
    }

    /// The pods that have an address.
    fn pods_of(&self, address: IpAddr) -> Vec<DroppedPod> {
        let owners = self.policies().owners(self.index(), address);
        let pod = |pod: &sluice_core::model::Pod| DroppedPod {
            name: pod.name.clone(),
            labels: pod.labels.clone(),
        };
        owners.into_iter().map(pod).collect()
    }

    fn explain_drop(
        &mut self,
        event: &DropEvent,
        has_time: impl Fn() -> bool,
    ) -> Option<DroppedBy> {
        let flow = event.flow;
        let (src, dst): (IpAddr, IpAddr) = (flow.src.into(), flow.dst.into());
        let (protocol, port) = (flow.proto, flow.dport.get());
        let of = |address| {
            let pod = self.policy_pods().iter().find(|pod| pod.address == address)?;
            pod.name.clone()
        };
        let (pod, direction, peer) = match DropReason::from_number(event.reason)? {
            DropReason::PolicyEgress => (of(src)?, PolicyDirection::Egress, dst),
            DropReason::PolicyIngress => (of(dst)?, PolicyDirection::Ingress, src),
            DropReason::PolicyPending => {
                // The programs do not say which end is not known. The agent does, if it is still so.
                let source = of(src).map(|pod| (pod, PolicyDirection::Egress, dst));
                let destination = of(dst).map(|pod| (pod, PolicyDirection::Ingress, src));
                let ends: Vec<_> = source.into_iter().chain(destination).collect();
                let is_pending = |(pod, direction, peer): &&(ObjectName, _, _)| {
                    let query = Query {
                        pod: pod.clone(),
                        direction: *direction,
                        peer: *peer,
                        protocol,
                        port,
                    };
                    let reason = self.reason(query, &has_time);
                    reason.is_some_and(|reason| reason.verdict == Verdict::Pending)
                };
                ends.iter().find(is_pending).or(ends.first()).cloned()?
            }
            _ => return None,
        };
        let query = Query { pod: pod.clone(), direction, peer, protocol, port };
        let explanation = self.reason(query, &has_time);
        Some(DroppedBy { pod, direction, explanation })
    }

    /// The reason that is kept, or, while `has_time` is true, a new one.
    fn reason(&mut self, query: Query, has_time: impl Fn() -> bool) -> Option<Arc<Explanation>> {
        if let Some(known) = self.drops.reasons.get(&query) {
            return Some(Arc::clone(known));
        }
        let found = has_time().then(|| Arc::new(self.policies().explain(self.index(), &query)))?;
        if self.drops.reasons.len() < REASONS {
            self.drops.reasons.insert(query, Arc::clone(&found));
        }
        Some(found)
    }
}

impl Drops {
    fn count(&mut self, explanation: Option<&Explanation>, index: &Index) {
        let nearest = explanation.and_then(|explanation| match &explanation.verdict {
            Verdict::Denied(near) => near.first().map(|miss| &miss.policy),
            Verdict::DeniedBy(refusal) => Some(&refusal.rule.policy),
            Verdict::Closed(closing) => {
                closing.policy.as_ref().or_else(|| explanation.isolating.first())
            }
            // No policy denies it, at least by now.
            _ => None,
        });
        let name = nearest.map(|name| (name.namespace.to_string(), name.name.to_string()));
        let named = self.by_policy.len() - usize::from(self.by_policy.contains_key(&OTHERS));
        let counted = name.filter(|name| {
            // Its rows can still be compiled, although it was deleted.
            let has_place = named < COUNTED && exists(index, name);
            has_place || self.by_policy.contains_key(name)
        });
        *self.by_policy.entry(counted.unwrap_or(OTHERS)).or_default() += 1;
    }
}

/// Whether there is a policy with this namespace, empty for a ClusterNetworkPolicy, and name.
fn exists(index: &Index, (namespace, name): &(String, String)) -> bool {
    if namespace.is_empty() {
        return index.cluster_network_policy(&ObjectName::cluster(name.as_str())).is_some();
    }
    index.network_policy(&ObjectName::new(namespace.as_str(), name.as_str())).is_some()
}
