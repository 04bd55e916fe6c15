//! Endpoints of Pods that end, before their EndpointSlice says so.
//!
//! ```text
//! Pod with deletionTimestamp --> ended --+
//!                                        +--> conditions of the endpoints that refer to it
//! endpoints of the slices --> referring -+
//! ```
//! The EndpointSlice arrives after kubelet has begun to stop the containers; the Pod arrives before.
//! An endpoint refers to its Pod by UID: a Pod that is created again has the same name, and another may
//! get its address. An endpoint without `targetRef` has no Pod. The cost of a Pod is proportional to
//! the slices that refer to it.
//!
//! A deleted Pod is remembered as long as an endpoint refers to its UID: its containers do not run any
//! more, and the slice changes later. This is the only thing in the index that depends on the past.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::model::{EndpointSlice, ObjectName, Pod, Uid};

/// Equal for equal UIDs. Another UID with the same number costs a compilation without effect.
fn digest(uid: Uid) -> u32 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

/// The digests of the UIDs that a slice refers to, sorted, each once.
fn digests(slice: Option<&EndpointSlice>) -> Vec<u32> {
    let endpoints = slice.into_iter().flat_map(|slice| &slice.endpoints);
    let mut digests: Vec<u32> = endpoints.filter_map(|e| e.target).map(digest).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// Why the endpoints of a Pod end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has a deletionTimestamp.
    Terminating,
    /// It was deleted.
    Gone,
}

/// Pods that end, and the slices that refer to Pods.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// By digest and UID.
    ended: BTreeMap<(u32, Uid), End>,
    /// Digest of a UID and number of a slice.
    referring: BTreeSet<(u32, u32)>,
    /// The slice with each number.
    slices: Vec<Option<ObjectName>>,
    free: Vec<u32>,
}

impl Ending {
    /// A Pod was added, replaced or deleted. Returns the slices whose endpoints may have other
    /// conditions.
    pub fn pod(&mut self, former: Option<&Pod>, new: Option<&Pod>) -> BTreeSet<ObjectName> {
        let uid = |pod: Option<&Pod>| pod.and_then(|pod| pod.uid);
        let deleted = uid(former).filter(|former| uid(new) != Some(*former));
        let mut changed = BTreeSet::new();
        if let Some(uid) = deleted {
            self.set(uid, Some(End::Gone), &mut changed);
        }
        if let Some((new, uid)) = new.and_then(|new| Some((new, new.uid?))) {
            self.set(uid, new.terminating.then_some(End::Terminating), &mut changed);
        }
        changed
    }

    /// Records how a Pod ends, and adds the slices that refer to it if that is new.
    fn set(&mut self, uid: Uid, end: Option<End>, changed: &mut BTreeSet<ObjectName>) {
        let key = (digest(uid), uid);
        let referring = self.referring(key.0).next().is_some();
        let former = match end.filter(|end| *end != End::Gone || referring) {
            Some(end) => self.ended.insert(key, end),
            None => self.ended.remove(&key),
        };
        if former != end {
            changed.extend(self.referring(key.0).cloned());
        }
    }

    /// A slice was added (without a number), replaced or deleted. Returns its number.
    pub fn slice(
        &mut self,
        number: Option<u32>,
        former: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
    ) -> u32 {
        let number = number.unwrap_or_else(|| self.number(new));
        let (before, after) = (digests(former), digests(new));
        for digest in after.iter().filter(|digest| before.binary_search(digest).is_err()) {
            self.referring.insert((*digest, number));
        }
        for digest in before.iter().filter(|digest| after.binary_search(digest).is_err()) {
            self.referring.remove(&(*digest, number));
            if self.referring(*digest).next().is_none() {
                self.forget(*digest);
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
            let end = endpoint.target.and_then(|uid| self.ended.get(&(digest(uid), uid)));
            let Some(end) = end else { continue };
            if let Some(endpoint) = applied.to_mut().endpoints.get_mut(at) {
                endpoint.ready = false;
                endpoint.serving &= *end != End::Gone;
                endpoint.terminating = true;
            }
        }
        applied
    }

    /// Number of Pods that end.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.ended.len()
    }

    /// Forgets the deleted Pods with a digest.
    fn forget(&mut self, digest: u32) {
        let least = Uid::default();
        let uids =
            self.ended.range((digest, least)..).take_while(|((other, _), _)| *other == digest);
        let gone = uids.filter(|(_, end)| **end == End::Gone).map(|(key, _)| *key);
        for key in gone.collect::<Vec<_>>() {
            self.ended.remove(&key);
        }
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
