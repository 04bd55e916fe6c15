//! Endpoints of Pods that end, before their EndpointSlice says so.
//!
//! ```text
//! Pod with deletionTimestamp --> ended --+
//!                                        +--> conditions of the endpoints that refer to it
//! endpoints of the slices --> referring -+
//! ```
//! The EndpointSlice arrives after kubelet has begun to stop the containers; the Pod arrives before.
//! An endpoint refers to its Pod by UID, else by address. The cost of a Pod is proportional to the
//! slices that refer to it.
//!
//! A deleted Pod is remembered as long as an endpoint refers to its UID: its containers do not run any
//! more, and the slice changes later. This is the only thing in the index that depends on the past.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::model::{Endpoint, EndpointSlice, ObjectName, Pod, Uid};

/// How an endpoint refers to its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PodRef {
    Uid(Uid),
    Address(IpAddr),
}

impl PodRef {
    fn of(endpoint: &Endpoint) -> PodRef {
        endpoint.target.map_or(PodRef::Address(endpoint.address), PodRef::Uid)
    }

    /// All that refer to the Pod. The address is not its own on the host network, and may be another
    /// Pod's once its containers have ended.
    fn to(pod: &Pod) -> Vec<PodRef> {
        let own_address = !pod.host_network && !pod.phase.is_over();
        let addresses = pod.ips.iter().filter(|_| own_address).map(PodRef::Address);
        pod.uid.map(PodRef::Uid).into_iter().chain(addresses).collect()
    }

    /// Equal for equal references. Another reference with the same number costs a compilation without
    /// effect.
    fn digest(self) -> u32 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }
}

/// Why endpoints with a reference end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// So many Pods with this reference have a deletionTimestamp.
    Terminating(u32),
    /// The Pod was deleted.
    Gone,
}

/// Pods that end, and the slices that refer to Pods.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    ended: HashMap<PodRef, End>,
    /// UIDs of deleted Pods, by digest.
    gone: BTreeMap<u32, Uid>,
    /// Digest of a reference and number of a slice.
    referring: BTreeSet<(u32, u32)>,
    /// The slice with each number.
    slices: Vec<Option<ObjectName>>,
    free: Vec<u32>,
}

impl Ending {
    /// A Pod was added, replaced or deleted. Returns the slices whose endpoints may have other
    /// conditions.
    pub fn pod(&mut self, former: Option<&Pod>, new: Option<&Pod>) -> BTreeSet<ObjectName> {
        let ends = |pod: Option<&Pod>| {
            pod.filter(|pod| pod.terminating).map(PodRef::to).unwrap_or_default()
        };
        let (before, after) = (ends(former), ends(new));
        let deleted = former.and_then(|pod| pod.uid);
        let deleted = deleted.filter(|uid| new.is_none_or(|new| new.uid != Some(*uid)));
        let returned = new.and_then(|pod| pod.uid).filter(|uid| self.is_gone(*uid));
        if before == after && deleted.is_none() && returned.is_none() {
            return BTreeSet::new();
        }
        if let Some(uid) = returned {
            self.gone.remove(&PodRef::Uid(uid).digest());
            self.ended.remove(&PodRef::Uid(uid));
        }
        for reference in &before {
            if let Some(End::Terminating(count)) = self.ended.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    self.ended.remove(reference);
                }
            }
        }
        for reference in &after {
            if let End::Terminating(count) =
                self.ended.entry(*reference).or_insert(End::Terminating(0))
            {
                *count += 1;
            }
        }
        if let Some(uid) = deleted {
            let reference = PodRef::Uid(uid);
            if self.referring(reference.digest()).next().is_some() {
                self.gone.insert(reference.digest(), uid);
                self.ended.insert(reference, End::Gone);
            }
        }
        let uids = deleted.into_iter().chain(returned).map(PodRef::Uid);
        let changed = before.into_iter().chain(after).chain(uids);
        changed.flat_map(|reference| self.referring(reference.digest()).cloned()).collect()
    }

    /// A slice was added (without a number), replaced or deleted. Returns its number.
    pub fn slice(
        &mut self,
        number: Option<u32>,
        former: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
    ) -> u32 {
        let number = number.unwrap_or_else(|| self.number(new));
        let digests = |slice: Option<&EndpointSlice>| -> BTreeSet<u32> {
            slice.into_iter().flat_map(|s| &s.endpoints).map(|e| PodRef::of(e).digest()).collect()
        };
        let (before, after) = (digests(former), digests(new));
        for digest in after.difference(&before) {
            self.referring.insert((*digest, number));
        }
        for digest in before.difference(&after) {
            self.referring.remove(&(*digest, number));
            if self.referring(*digest).next().is_none()
                && let Some(uid) = self.gone.remove(digest)
            {
                self.ended.remove(&PodRef::Uid(uid));
            }
        }
        if new.is_none() {
            if let Some(slot) = self.slices.get_mut(number as usize) {
                *slot = None;
            }
            self.free.push(number);
        }
        number
    }

    /// The slice with the conditions that its endpoints have because of their Pods.
    pub fn applied<'a>(&self, slice: &'a EndpointSlice) -> Cow<'a, EndpointSlice> {
        let mut applied = Cow::Borrowed(slice);
        if self.ended.is_empty() {
            return applied;
        }
        for (at, endpoint) in slice.endpoints.iter().enumerate() {
            let Some(end) = self.ended.get(&PodRef::of(endpoint)) else { continue };
            if let Some(endpoint) = applied.to_mut().endpoints.get_mut(at) {
                endpoint.ready = false;
                endpoint.serving &= *end != End::Gone;
                endpoint.terminating = true;
            }
        }
        applied
    }

    /// Number of references whose Pods end.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.ended.len()
    }

    fn is_gone(&self, uid: Uid) -> bool {
        self.ended.get(&PodRef::Uid(uid)) == Some(&End::Gone)
    }

    /// A number for a slice.
    fn number(&mut self, slice: Option<&EndpointSlice>) -> u32 {
        let name = slice.map(|slice| slice.name.clone());
        if let Some(number) = self.free.pop() {
            if let Some(slot) = self.slices.get_mut(number as usize) {
                *slot = name;
            }
            return number;
        }
        self.slices.push(name);
        u32::try_from(self.slices.len() - 1).unwrap_or(u32::MAX)
    }

    /// The slices with a reference of this digest.
    fn referring(&self, digest: u32) -> impl Iterator<Item = &ObjectName> {
        let numbers = self.referring.range((digest, 0)..=(digest, u32::MAX));
        numbers.filter_map(|(_, number)| self.slices.get(*number as usize)?.as_ref())
    }
}
