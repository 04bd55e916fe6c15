//! Numeric ids of Service ports and backends in the maps.
//!
//! Ids are never 0. An owner keeps its id as long as the id is referenced. Ids are assigned in
//! ascending order and wrap around at the end; an id that was removed recently is skipped (see
//! [`crate::quarantine`]). After a restart, ids are adopted from the rows in the kernel.

use std::collections::HashMap;
use std::hash::Hash;

use crate::quarantine::Quarantine;

/// Owners, their ids, and the number of references to each.
///
/// An owner may have several ids, because rows that were read back may contain duplicates; new
/// references use the one in `current`.
#[derive(Clone, Debug)]
pub struct Ids<T> {
    owners: HashMap<u32, (T, u32)>,
    current: HashMap<T, u32>,
    removed: Quarantine<u32>,
    last: u32,
}

impl<T> Default for Ids<T> {
    fn default() -> Ids<T> {
        Ids {
            owners: HashMap::new(),
            current: HashMap::new(),
            removed: Quarantine::default(),
            last: 0,
        }
    }
}

impl<T: Clone + Eq + Hash> Ids<T> {
    /// Adopts an id found in the kernel, with no reference to it yet. Returns false if the id is 0
    /// or has another owner.
    pub fn adopt(&mut self, id: u32, owner: &T) -> bool {
        if id == 0 || self.owners.get(&id).is_some_and(|(other, _)| other != owner) {
            return false;
        }
        self.owners.entry(id).or_insert_with(|| (owner.clone(), 0));
        self.current.entry(owner.clone()).or_insert(id);
        self.last = self.last.max(id);
        true
    }

    /// Continues with ids above this one.
    pub fn skip_to(&mut self, id: u32) {
        self.last = self.last.max(id);
    }

    /// Continues after the ids of a previous instance. Ids that only the previous instance uses are
    /// quarantined as if the current plan had removed them.
    pub fn succeed(&mut self, previous: &Ids<T>) {
        self.last = self.last.max(previous.last);
        for id in previous.ids().chain(previous.removed.iter()) {
            if !self.owners.contains_key(&id) {
                self.removed.add(id);
            }
        }
    }

    /// The id that new references to this owner use, if it has one.
    pub fn get(&self, owner: &T) -> Option<u32> {
        self.current.get(owner).copied()
    }

    /// The owner of an id.
    pub fn owner(&self, id: u32) -> Option<&T> {
        self.owners.get(&id).map(|(owner, _)| owner)
    }

    /// The owner's id, and whether it was assigned by this call. Counts no reference.
    pub fn get_or_insert(&mut self, owner: &T) -> (u32, bool) {
        if let Some(id) = self.get(owner) {
            return (id, false);
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.owners.contains_key(&self.last) && !self.removed.contains(&self.last) {
                break;
            }
        }
        self.owners.insert(self.last, (owner.clone(), 0));
        self.current.insert(owner.clone(), self.last);
        (self.last, true)
    }

    /// Counts one more reference.
    pub fn acquire(&mut self, id: u32) {
        if let Some((_, references)) = self.owners.get_mut(&id) {
            *references += 1;
        }
    }

    /// Counts one reference less. Returns true if none is left.
    pub fn release(&mut self, id: u32) -> bool {
        self.owners.get_mut(&id).is_some_and(|(_, references)| {
            *references = references.saturating_sub(1);
            *references == 0
        })
    }

    /// Removes an id without references and quarantines it. Returns its owner.
    pub fn remove_unused(&mut self, id: u32) -> Option<T> {
        if !matches!(self.owners.get(&id), Some((_, 0))) {
            return None;
        }
        let (owner, _) = self.owners.remove(&id)?;
        if self.current.get(&owner) == Some(&id) {
            self.current.remove(&owner);
        }
        self.removed.add(id);
        Some(owner)
    }

    /// Quarantines an id that never had an owner here.
    pub fn quarantine(&mut self, id: u32) {
        self.removed.add(id);
    }

    /// Ends a plan: ids that were removed long enough ago may be assigned again.
    pub fn end_plan(&mut self) {
        self.removed.end_plan();
    }

    /// Number of removed ids that must not be assigned yet.
    pub fn quarantined(&self) -> usize {
        self.removed.iter().count()
    }

    /// All ids in use, in no order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.owners.keys().copied()
    }

    /// Number of ids in use.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referenced_id_stays_and_removed_id_is_not_the_next() {
        let mut ids = Ids::default();
        assert!(ids.is_empty());
        let (a, new) = ids.get_or_insert(&"a");
        assert!(new && a != 0);
        ids.acquire(a);
        ids.acquire(a);
        assert_eq!(ids.get_or_insert(&"a"), (a, false));
        assert!(!ids.release(a), "one reference is left");
        assert!(ids.remove_unused(a).is_none(), "still referenced");
        assert!(ids.release(a));
        assert_eq!(ids.len(), 1);
        assert_eq!(ids.remove_unused(a), Some("a"));
        assert!(ids.is_empty());
        let (again, _) = ids.get_or_insert(&"a");
        assert_ne!(again, a);
    }

    #[test]
    fn wrap_around_skips_ids_in_use() {
        let mut ids = Ids::default();
        assert!(ids.adopt(u32::MAX, &"max"));
        assert!(ids.adopt(1, &"one"));
        assert_eq!(ids.get_or_insert(&"new"), (2, true));
    }

    #[test]
    fn wrap_around_skips_ids_removed_by_the_last_two_plans() {
        for (plans, expect) in [(0, 2), (1, 2), (2, 2), (3, 1)] {
            let mut ids = Ids::default();
            assert!(ids.adopt(1, &"one"));
            assert_eq!(ids.remove_unused(1), Some("one"));
            (0..plans).for_each(|_| ids.end_plan());
            ids.skip_to(u32::MAX);
            assert_eq!(ids.get_or_insert(&"new").0, expect, "after {plans} plans");
        }
    }

    #[test]
    fn successor_reuses_no_id_of_its_predecessor() {
        let mut previous = Ids::default();
        assert!(previous.adopt(1, &"removed") && previous.adopt(2, &"gone"));
        assert!(previous.adopt(3, &"kept"));
        previous.remove_unused(1);
        let mut ids = Ids::default();
        assert!(ids.adopt(3, &"kept"));
        previous.skip_to(9);
        ids.succeed(&previous);
        assert_eq!(ids.get_or_insert(&"new").0, 10);
        ids.skip_to(u32::MAX);
        assert_eq!(ids.get_or_insert(&"after the wrap-around").0, 4);
        assert_eq!(ids.get(&"kept"), Some(3));
    }

    #[test]
    fn adopted_ids_keep_their_owners() {
        let mut ids = Ids::default();
        assert!(ids.adopt(7, &"a"));
        assert!(ids.adopt(9, &"a"), "a second id of one owner");
        assert!(!ids.adopt(7, &"b"));
        assert!(!ids.adopt(0, &"c"));
        assert_eq!(ids.get(&"a"), Some(7));
        assert_eq!(ids.remove_unused(9), Some("a"));
        assert_eq!(ids.get(&"a"), Some(7));
        assert_eq!(ids.remove_unused(7), Some("a"));
        assert_eq!(ids.get(&"a"), None);
    }
}
