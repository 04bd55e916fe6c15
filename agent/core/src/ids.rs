//! Numbers by which the kernel knows Service ports and backends.
//!
//! Ids are never 0, stay with their owner as long as somebody refers to it, and are handed out in
//! rising order with a wrap at the end, so that a freed id rests for long. After a restart they
//! are adopted from what the kernel holds.

use std::collections::HashMap;
use std::hash::Hash;

/// Owners, their ids and how often each is referred to.
///
/// An owner may have several ids, since what was read back may be odd; new references go to the
/// one in `current`.
#[derive(Clone, Debug)]
pub struct Ids<T> {
    owners: HashMap<u32, (T, u32)>,
    current: HashMap<T, u32>,
    last: u32,
}

impl<T> Default for Ids<T> {
    fn default() -> Ids<T> {
        Ids { owners: HashMap::new(), current: HashMap::new(), last: 0 }
    }
}

impl<T: Clone + Eq + Hash> Ids<T> {
    /// Takes over an id that the kernel holds, with no reference to it yet. False if the id is 0
    /// or somebody else's.
    pub fn adopt(&mut self, id: u32, owner: &T) -> bool {
        if id == 0 || self.owners.get(&id).is_some_and(|(other, _)| other != owner) {
            return false;
        }
        self.owners.entry(id).or_insert_with(|| (owner.clone(), 0));
        self.current.entry(owner.clone()).or_insert(id);
        self.last = self.last.max(id);
        true
    }

    /// Lets no id up to this one be handed out before the numbers wrap.
    pub fn skip_to(&mut self, id: u32) {
        self.last = self.last.max(id);
    }

    /// The id that new references to this owner get, if it has one.
    pub fn get(&self, owner: &T) -> Option<u32> {
        self.current.get(owner).copied()
    }

    /// The owner of an id.
    pub fn owner(&self, id: u32) -> Option<&T> {
        self.owners.get(&id).map(|(owner, _)| owner)
    }

    /// The owner's id, a new one if it has none, and whether it is new. No reference is counted.
    pub fn get_or_insert(&mut self, owner: &T) -> (u32, bool) {
        if let Some(id) = self.get(owner) {
            return (id, false);
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.owners.contains_key(&self.last) {
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

    /// Counts one reference less; true if none is left.
    pub fn release(&mut self, id: u32) -> bool {
        self.owners.get_mut(&id).is_some_and(|(_, references)| {
            *references = references.saturating_sub(1);
            *references == 0
        })
    }

    /// Whether nobody refers to an id.
    pub fn is_unused(&self, id: u32) -> bool {
        self.owners.get(&id).is_some_and(|(_, references)| *references == 0)
    }

    /// Forgets an id that nobody refers to; gives its owner.
    pub fn forget(&mut self, id: u32) -> Option<T> {
        if !self.is_unused(id) {
            return None;
        }
        let (owner, _) = self.owners.remove(&id)?;
        if self.current.get(&owner) == Some(&id) {
            self.current.remove(&owner);
        }
        Some(owner)
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
    fn a_freed_id_is_not_the_next_one() {
        let mut ids = Ids::default();
        let (a, new) = ids.get_or_insert(&"a");
        assert!(new && a != 0);
        ids.acquire(a);
        assert_eq!(ids.get_or_insert(&"a"), (a, false));
        assert!(ids.forget(a).is_none(), "still referred to");
        assert!(ids.release(a));
        assert_eq!(ids.forget(a), Some("a"));
        let (again, _) = ids.get_or_insert(&"a");
        assert_ne!(again, a);
    }

    #[test]
    fn numbers_wrap_past_those_in_use() {
        let mut ids = Ids::default();
        assert!(ids.adopt(u32::MAX, &"max"));
        assert!(ids.adopt(1, &"one"));
        assert_eq!(ids.get_or_insert(&"new"), (2, true));
    }

    #[test]
    fn adopted_ids_stay_with_their_owners() {
        let mut ids = Ids::default();
        assert!(ids.adopt(7, &"a"));
        assert!(ids.adopt(9, &"a"), "a second id of one owner");
        assert!(!ids.adopt(7, &"b"));
        assert!(!ids.adopt(0, &"c"));
        assert_eq!(ids.get(&"a"), Some(7));
        assert_eq!(ids.forget(9), Some("a"));
        assert_eq!(ids.get(&"a"), Some(7));
        assert_eq!(ids.forget(7), Some("a"));
        assert_eq!(ids.get(&"a"), None);
    }
}
