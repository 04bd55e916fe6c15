//! Pods as peers: groups that no term distinguishes, and the addresses of their pods.
//!
//! An address has one owner. The lease decides for pods of this node: a new pod has the address before
//! its Pod object has it, and an earlier Pod object may still have it. Otherwise a pod that does not
//! terminate precedes those that do. Of several such pods, a term must match all; rules that deny may
//! match any.

mod claims;
pub mod dirty;
mod groups;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashTable;
use sluice_abi::Addr;

use self::claims::Claims;
use self::dirty::Dirty;
use super::LocalPod;
use super::classes::{ClassContent, NumberedPort};
use super::findings::ChangedPods;
use super::numbers::{Numbers, NumbersBy};
use super::rules::PortName;
use super::term::{GroupKey, Terms};
use crate::index::Index;
use crate::model::{Label, ObjectName, Pod, PodIps, Uid};

/// A pod that selectors can select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Peer {
    name: Arc<str>,
    group: u32,
    terminating: bool,
    ips: PodIps,
    /// Addresses of its leases that the Pod object does not have.
    leased: Box<[IpAddr]>,
}

impl Peer {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().chain(self.leased.iter().copied())
    }
}

/// Pods with the same namespace, labels and named ports.
#[derive(Clone, Debug)]
struct Group {
    key: Arc<GroupKey>,
    members: Numbers,
    /// The active selectors that select them, sorted.
    terms: Vec<u32>,
    /// Their ports whose names are in use, sorted.
    named: Arc<[NumberedPort]>,
}

/// A lease as far as it decides who owns an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    name: Option<ObjectName>,
    uid: Option<Uid>,
}

/// The pods of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// Whether pods are recorded.
    needed: bool,
    /// Numbers by the names of the pods, which are in `peers` and `groups`.
    by_name: HashTable<u32>,
    hasher: RandomState,
    peers: Vec<Peer>,
    free: Vec<u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    by_key: HashMap<Arc<GroupKey>, u32>,
    by_namespace: NumbersBy<Arc<str>>,
    by_label: NumbersBy<Arc<Label>>,
    claims: Claims,
    leases: BTreeMap<Addr, Lease>,
    /// Addresses of the leases of each pod.
    leased: HashMap<ObjectName, BTreeSet<Addr>>,
    /// By the names of the ports that the pods have.
    by_port: NumbersBy<PortName>,
    /// Names of ports that egress rules use, with the number of tables.
    names: BTreeMap<PortName, u32>,
    /// [`Term::Unknown`], while it is active.
    unknown: Option<u32>,
    /// Addresses whose class may be another one.
    dirty: Dirty,
    /// Groups and ports that came or went.
    changed: ChangedPods,
}

/// Whether a Pod object is that of a lease: both have the same UID, or one has none.
pub fn same_pod(pod: &Pod, uid: Option<Uid>) -> bool {
    uid.is_none() || pod.uid.is_none() || uid == pod.uid
}

impl Pods {
    /// Sets whether any pod can be a peer of a policy. If that is new, every Pod has to be passed to
    /// [`Pods::pod`].
    pub fn set_needed(&mut self, needed: bool) -> bool {
        std::mem::replace(&mut self.needed, needed) != needed
    }

    /// Whether any pod can be a peer of a policy.
    pub fn is_needed(&self) -> bool {
        self.needed
    }

    /// Sets the leases; returns the pods whose leases changed.
    pub fn set_leases(&mut self, local: &[LocalPod]) -> BTreeSet<ObjectName> {
        let lease = |pod: &LocalPod| Lease { name: pod.name.clone(), uid: pod.uid };
        let new: BTreeMap<Addr, Lease> =
            local.iter().map(|pod| (pod.address.into(), lease(pod))).collect();
        let mut changed = BTreeSet::new();
        let old = std::mem::take(&mut self.leases);
        for (address, lease) in old.iter().filter(|(a, lease)| new.get(a) != Some(lease)) {
            self.dirty.addresses.insert(*address);
            if let Some(name) = &lease.name {
                changed.insert(name.clone());
                if let Some(addresses) = self.leased.get_mut(name) {
                    addresses.remove(address);
                    if addresses.is_empty() {
                        self.leased.remove(name);
                    }
                }
            }
        }
        for (address, lease) in new.iter().filter(|(a, lease)| old.get(a) != Some(lease)) {
            self.dirty.addresses.insert(*address);
            if let Some(name) = &lease.name {
                changed.insert(name.clone());
                self.leased.entry(name.clone()).or_default().insert(*address);
            }
        }
        self.leases = new;
        changed
    }

    /// A Pod was added, changed or deleted, or its lease.
    pub fn pod(&mut self, index: &Index, name: &ObjectName, terms: &Terms) {
        let pod = index.pod(name).filter(|_| self.needed);
        let pod = pod.filter(|pod| !pod.host_network && !pod.phase.is_over());
        let known = self.find(name);
        let Some(pod) = pod else {
            if let Some(number) = known {
                self.forget(name);
                self.replace(number, Peer::default(), false, true);
                self.free.push(number);
            }
            return;
        };
        let leased = self.leased.get(name).into_iter().flatten().copied().map(IpAddr::from);
        let of_lease = |ip: &IpAddr| {
            let lease = self.leases.get(&(*ip).into());
            lease.is_some_and(|lease| same_pod(pod, lease.uid)) && !pod.ips.iter().any(|i| i == *ip)
        };
        let leased = leased.filter(of_lease).collect();
        let key = GroupKey {
            namespace: Arc::clone(&pod.name.namespace),
            labels: pod.labels.clone(),
            ports: Arc::clone(&pod.ports),
        };
        let group = self.group(index, key, terms);
        let name = Arc::clone(&pod.name.name);
        let peer = Peer { name, group, terminating: pod.terminating, ips: pod.ips, leased };
        match known {
            Some(number) => self.replace(number, peer, true, true),
            None => {
                let number = self.free.pop().unwrap_or(self.peers.len() as u32);
                if number as usize == self.peers.len() {
                    self.peers.push(Peer::default());
                }
                self.replace(number, peer, true, false);
                self.record(&pod.name, number);
            }
        }
    }

    /// Names of all pods.
    pub fn names(&self) -> impl Iterator<Item = ObjectName> {
        self.by_name.iter().map(|number| self.name(&self.peers[*number as usize]))
    }

    /// Names of all namespaces with pods.
    pub fn namespaces(&self) -> Vec<Arc<str>> {
        self.by_namespace.keys().cloned().collect()
    }

    /// The labels of a namespace may be others.
    pub fn namespace(&mut self, index: &Index, name: &str, terms: &Terms) {
        let groups: Vec<u32> = self.by_namespace.of(name).collect();
        for number in groups {
            let group = &mut self.groups[number as usize];
            let selecting = terms.selecting(index, &group.key);
            if selecting != group.terms {
                group.terms = selecting;
                self.touch(number);
            }
        }
    }

    /// Whether addresses of known pods must have classes, because unknown ones are matched by
    /// [`Term::Unknown`].
    pub fn distinguishes_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Blocks became active or inactive: the addresses in their ranges.
    pub fn ranges(&mut self, ranges: &[ipnet::IpNet]) {
        for range in ranges {
            let (first, last) = (Addr::from(range.network()), Addr::from(range.broadcast()));
            self.dirty.addresses.extend(self.claims.range(first, last));
        }
    }

    /// The addresses whose class may be another one.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// The groups and ports that came or went since the last call.
    pub fn take_changed(&mut self) -> ChangedPods {
        std::mem::take(&mut self.changed)
    }

    /// The Pod objects that own an address: normally one.
    pub fn owners<'a>(&self, index: &'a Index, address: Addr) -> Vec<&'a Pod> {
        self.owning(index, address).iter().filter_map(|p| index.pod(&self.name(p))).collect()
    }

    /// The name of the one pod that owns an address.
    pub fn owner(&self, index: &Index, address: Addr) -> Option<ObjectName> {
        if let [owner] = *self.owning(index, address) { Some(self.name(owner)) } else { None }
    }

    /// Namespace and name of a pod.
    fn name(&self, peer: &Peer) -> ObjectName {
        let namespace = &self.groups[peer.group as usize].key.namespace;
        ObjectName::new(Arc::clone(namespace), Arc::clone(&peer.name))
    }

    /// The pods that own an address.
    fn owning(&self, index: &Index, address: Addr) -> Vec<&Peer> {
        let peer = |number: u32| &self.peers[number as usize];
        if let Some(lease) = self.leases.get(&address) {
            let of = |name| {
                index.pod(name).filter(|pod| same_pod(pod, lease.uid))?;
                self.find(name)
            };
            return lease.name.as_ref().and_then(of).map(peer).into_iter().collect();
        }
        let owners = self.claims.of(address).map(peer);
        let (ending, alive): (Vec<&Peer>, Vec<&Peer>) = owners.partition(|peer| peer.terminating);
        if alive.is_empty() { ending } else { alive }
    }

    /// What selectors and port names say about the owner of an address; `None` if no pod owns it.
    pub fn content(&self, index: &Index, address: Addr) -> Option<ClassContent> {
        let owners = self.owning(index, address);
        let groups: Vec<&Group> =
            owners.iter().map(|peer| &self.groups[peer.group as usize]).collect();
        let (first, others) = groups.split_first()?;
        if others.is_empty() {
            return Some(ClassContent {
                terms: first.terms.clone().into(),
                named: Arc::clone(&first.named),
            });
        }
        let all = |term: &&u32| others.iter().all(|group| group.terms.contains(term));
        let mut terms: Vec<u32> = first.terms.iter().filter(all).copied().collect();
        if let Some(unknown) = self.unknown
            && let Err(place) = terms.binary_search(&unknown)
        {
            terms.insert(place, unknown);
        }
        let named = first.named.iter().filter(|p| others.iter().all(|g| g.named.contains(p)));
        Some(ClassContent { terms: terms.into(), named: named.cloned().collect() })
    }

    /// Puts a pod in the place of another one, and marks the addresses of both. Removes or adds the
    /// claims of pods that are absent or new.
    fn replace(&mut self, number: u32, peer: Peer, is: bool, was: bool) {
        let former = &self.peers[number as usize];
        if is && was && *former == peer {
            return;
        }
        let group = peer.group;
        let former = std::mem::replace(&mut self.peers[number as usize], peer);
        if was {
            let name = self.name(&former);
            for address in former.addresses().map(Addr::from) {
                self.dirty.lost(address, &name);
                self.claims.remove(address, number);
            }
        }
        if is {
            for address in self.peers[number as usize].addresses().map(Addr::from) {
                self.dirty.addresses.insert(address);
                self.claims.insert(address, number);
            }
            self.groups[group as usize].members.insert(number);
        }
        if was && !(is && former.group == group) {
            self.leave(number, former.group);
        }
    }

    fn hash(&self, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((namespace, name))
    }

    /// Whether a number is that of the pod with a name.
    fn is(&self, number: u32, name: &ObjectName) -> bool {
        let peer = &self.peers[number as usize];
        peer.name == name.name && self.groups[peer.group as usize].key.namespace == name.namespace
    }

    /// The number of a pod.
    fn find(&self, name: &ObjectName) -> Option<u32> {
        let hash = self.hash(&name.namespace, &name.name);
        self.by_name.find(hash, |number| self.is(*number, name)).copied()
    }

    /// Records the number of a pod that is in its place.
    fn record(&mut self, name: &ObjectName, number: u32) {
        let hash = self.hash(&name.namespace, &name.name);
        let mut table = std::mem::take(&mut self.by_name);
        table.insert_unique(hash, number, |number| {
            let name = self.name(&self.peers[*number as usize]);
            self.hash(&name.namespace, &name.name)
        });
        self.by_name = table;
    }

    /// Removes the number of a pod that is still in its place.
    fn forget(&mut self, name: &ObjectName) {
        let hash = self.hash(&name.namespace, &name.name);
        let mut table = std::mem::take(&mut self.by_name);
        if let Ok(entry) = table.find_entry(hash, |number| self.is(*number, name)) {
            entry.remove();
        }
        self.by_name = table;
    }
}
