//! Why a pod may or may not send or receive something, by the policies themselves, and by what of them does
//! not fit into the maps.
//!
//! A rule that does not allow a flow misses it by its peers, its ports or both. The nearest rule is the
//! one that misses by the least: by a block that does not fit, by ports only, then by a label, by a namespace,
//! by an address.

mod closing;
mod nearest;
mod peers;
mod tiers;

use std::net::IpAddr;
use std::sync::Arc;

use sluice_abi::{Addr, PolicyDirection};

use super::compiler::Policies;
use super::subjects::{Standing, depends_on_unknown_namespace, pod_of};
use super::term::Term;
use super::{Explanation, Query, Verdict, may_select};
use crate::index::Index;
use crate::model::{
    NetworkPolicy, ObjectName, Pod, PolicyPeer, PolicyPort, PolicyRule, PortSpec, Tier,
};

/// The other end of a flow.
struct Peer<'a> {
    address: IpAddr,
    /// The pods that have its address, normally one. None if the maps do not have the class of the address.
    pods: Vec<&'a Pod>,
    /// Whether the address is of a pod of any node.
    in_pod_range: bool,
    /// Whether a pod has the address, but its class does not fit into the map.
    unclassed: bool,
}

/// What is explained.
struct Flow<'a> {
    index: &'a Index,
    query: &'a Query,
    pod: &'a Pod,
    peer: &'a Peer<'a>,
    /// The maps that judge the pod; `None` for a pod of another node.
    maps: Option<&'a Policies>,
}

impl Policies {
    /// The Pods that have an address, as far as rules are concerned: normally one. Without any policy, none
    /// is known.
    pub fn owners<'a>(&self, index: &'a Index, address: IpAddr) -> Vec<&'a Pod> {
        self.pods.owners(index, address.into())
    }

    /// Whether the addresses that a peer of a rule names are in the maps of this node, or are not needed. A
    /// peer that names pods has none.
    pub fn has_addresses_of(&self, peer: &PolicyPeer) -> bool {
        Term::new(peer, &Arc::default()).is_none_or(|term| self.has_term(&term))
    }

    /// As [`Policies::has_addresses_of`].
    fn has_term(&self, term: &Term) -> bool {
        let number = self.terms.registry.find(term);
        number.is_none_or(|number| !self.networks.refused().contains(&number))
    }

    /// Why a pod may or may not send or receive something. The peer is a pod if a Pod object or a lease
    /// has its address.
    pub fn explain(&self, index: &Index, query: &Query) -> Explanation {
        let owners = self.pods.owners(index, query.peer.into());
        let peers = owners.iter().map(|pod| pod.name.clone()).collect();
        let explained = |isolating, verdict| Explanation { peers, isolating, verdict };
        let namespace = &query.pod.namespace;
        // The lease of a deleted pod may still exist beside that of a pod with its name.
        let leases =
            || self.subjects.iter().filter(|(pod, _)| pod.name.as_ref() == Some(&query.pod));
        let subject =
            leases().find(|(pod, _)| pod_of(index, pod).is_some()).or_else(|| leases().next());
        let pod = match subject {
            Some((lease, _)) => pod_of(index, lease),
            None => index.pod(&query.pod),
        };
        let Some(pod) = pod else {
            let open = !may_select(index, namespace);
            let verdict = if open { Verdict::NotIsolated } else { Verdict::Pending };
            return explained(Vec::new(), verdict);
        };
        if pod.host_network && subject.is_none() {
            return explained(Vec::new(), Verdict::HostNetwork);
        }
        if depends_on_unknown_namespace(index, namespace) {
            return explained(Vec::new(), Verdict::Pending);
        }
        let judging = Judging::of(index, pod, query.direction);
        let names = judging.names();
        if names.is_empty() {
            return explained(names, Verdict::NotIsolated);
        }
        if let Some((_, Standing::Judged(ends))) = subject
            && let Some(table) = ends[query.direction as usize]
            && let Some(closing) = self.closing(&judging, table)
        {
            return explained(names, Verdict::Closed(closing));
        }
        let unclassed = subject.is_some() && self.unclassed.contains(&Addr::from(query.peer));
        let peer = Peer {
            address: query.peer,
            pods: if unclassed { Vec::new() } else { owners },
            in_pod_range: self.networks.in_pod_range(query.peer),
            unclassed,
        };
        let flow = Flow { index, query, pod, peer: &peer, maps: subject.map(|_| self) };
        explained(names, judging.verdict(&flow))
    }
}

/// The policies that decide for a pod in a direction.
struct Judging<'a> {
    admin: tiers::Tier<'a>,
    /// NetworkPolicies that isolate it.
    own: Vec<(&'a NetworkPolicy, &'a [PolicyRule])>,
    /// None if NetworkPolicies isolate it.
    baseline: tiers::Tier<'a>,
}

impl<'a> Judging<'a> {
    fn of(index: &'a Index, pod: &'a Pod, direction: PolicyDirection) -> Judging<'a> {
        let own: Vec<(&NetworkPolicy, &[PolicyRule])> = index
            .network_policies_of(&pod.name.namespace)
            .filter(|policy| policy.pod_selector.matches(|key| pod.labels.get(key)))
            .filter_map(|policy| Some((policy, policy.rules(direction)?)))
            .collect();
        let tier = |tier| tiers::Tier::of(index, direction, pod, tier);
        let baseline = match own.is_empty() {
            true => tier(Tier::Baseline),
            false => tiers::Tier::default(),
        };
        Judging { admin: tier(Tier::Admin), own, baseline }
    }

    /// Names of the policies, in the order in which they are evaluated.
    fn names(&self) -> Vec<ObjectName> {
        let own = self.own.iter().map(|(policy, _)| policy.name.clone());
        self.admin.names().chain(own).chain(self.baseline.names()).collect()
    }

    fn verdict(&self, flow: &Flow<'_>) -> Verdict {
        self.admin.verdict(flow, &|| match self.own.is_empty() {
            true => self.baseline.verdict(flow, &|| Verdict::NotIsolated),
            false => nearest::judge(flow, &self.own),
        })
    }
}

impl Flow<'_> {
    /// The pods whose port names count.
    fn named(&self) -> Vec<&Pod> {
        match self.query.direction {
            PolicyDirection::Egress => self.peer.pods.clone(),
            PolicyDirection::Ingress => vec![self.pod],
        }
    }

    /// Whether an entry of `ports` matches; `named` are the pods whose port names count.
    fn admits(&self, port: &PolicyPort, named: &[&Pod]) -> bool {
        let query = self.query;
        port.protocol.number() == query.protocol
            && match &port.ports {
                PortSpec::All => true,
                PortSpec::Number(number) => number.get() == query.port,
                PortSpec::Range(first, last) => (first.get()..=last.get()).contains(&query.port),
                PortSpec::Name(name) => {
                    let has = |pod: &&Pod| {
                        pod.ports.iter().any(|p| {
                            p.name == *name
                                && p.protocol == port.protocol
                                && p.port.get() == query.port
                        })
                    };
                    !named.is_empty() && named.iter().all(has)
                }
                PortSpec::Invalid(_) => false,
            }
    }
}
