//! Numeric ids of Service ports and backends in the maps.
//!
//! Ids are never 0. An owner keeps its id as long as the id is referenced. Ids are assigned in
//! ascending order and wrap around at the end; an id that was removed recently is skipped (see
//! [`crate::quarantine`]). After a restart, ids are adopted from the rows in the kernel.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

use crate::quarantine::Quarantine;

/// Ids per page.
const PAGE: u32 = 32;

/// One id in use.
#[derive(Clone, Debug)]
struct Entry<T> {
    owner: T,
    references: u32,
}

/// Owners, their ids, and the number of references to each.
///
/// An owner may have several ids, because rows that were read back may contain duplicates; new
/// references use the one in `current`.
///
/// Ids are mostly adjacent, so the entries are stored in pages by id: an owner is stored once, and
/// `current` refers to it by id. A hash map in each direction takes four times the memory.
#[derive(Clone, Debug)]
pub struct Ids<T> {
    pages: Pages<T>,
    len: usize,
    current: HashTable<u32>,
    hasher: RandomState,
    removed: Quarantine<u32>,
    last: u32,
}

type Pages<T> = BTreeMap<u32, Box<[Option<Entry<T>>; PAGE as usize]>>;

fn entry_in<T>(pages: &Pages<T>, id: u32) -> Option<&Entry<T>> {
    pages.get(&(id / PAGE))?[(id % PAGE) as usize].as_ref()
}

/// The hash of the owner of an id.
fn hash_of_owner<T: Hash>(pages: &Pages<T>, hasher: &RandomState) -> impl Fn(&u32) -> u64 {
    |id| entry_in(pages, *id).map_or(0, |entry| hasher.hash_one(&entry.owner))
}

impl<T> Default for Ids<T> {
    fn default() -> Ids<T> {
        Ids {
            pages: BTreeMap::new(),
            len: 0,
            current: HashTable::new(),
            hasher: RandomState::new(),
            removed: Quarantine::default(),
            last: 0,
        }
    }
}

impl<T> Ids<T> {
    fn entry(&self, id: u32) -> Option<&Entry<T>> {
        entry_in(&self.pages, id)
    }

    fn entry_mut(&mut self, id: u32) -> Option<&mut Entry<T>> {
        self.pages.get_mut(&(id / PAGE))?[(id % PAGE) as usize].as_mut()
    }

    /// The owner of an id.
    pub fn owner(&self, id: u32) -> Option<&T> {
        self.entry(id).map(|entry| &entry.owner)
    }
}

impl<T: Clone + Eq + Hash> Ids<T> {
    /// Adopts an id found in the kernel, with no reference to it yet. Returns false if the id is 0
    /// or has another owner.
    pub fn adopt(&mut self, id: u32, owner: &T) -> bool {
        match self.owner(id) {
            _ if id == 0 => return false,
            Some(other) if other != owner => return false,
            Some(_) => {}
            None => self.insert(id, owner.clone()),
        }
        if self.get(owner).is_none() {
            self.set_current(id, owner);
        }
        self.last = self.last.max(id);
        true
    }

    fn insert(&mut self, id: u32, owner: T) {
        let page = self
            .pages
            .entry(id / PAGE)
            .or_insert_with(|| Box::new([const { None }; PAGE as usize]));
        page[(id % PAGE) as usize] = Some(Entry { owner, references: 0 });
        self.len += 1;
    }

    fn set_current(&mut self, id: u32, owner: &T) {
        let hash = self.hasher.hash_one(owner);
        let Ids { pages, hasher, current, .. } = self;
        current.insert_unique(hash, id, hash_of_owner(pages, hasher));
    }

    /// Makes space for this many owners in all, so that the table does not grow again and again.
    pub fn reserve(&mut self, owners: usize) {
        let Ids { pages, hasher, current, .. } = self;
        current.reserve(owners.saturating_sub(current.len()), hash_of_owner(pages, hasher));
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
            if self.entry(id).is_none() {
                self.removed.add(id);
            }
        }
    }

    /// The id that new references to this owner use, if it has one.
    pub fn get(&self, owner: &T) -> Option<u32> {
        let hash = self.hasher.hash_one(owner);
        self.current.find(hash, |id| self.owner(*id) == Some(owner)).copied()
    }

    /// The owner's id, and whether it was assigned by this call. Counts no reference.
    pub fn get_or_insert(&mut self, owner: &T) -> (u32, bool) {
        match self.get(owner) {
            Some(id) => (id, false),
            None => (self.add(owner), true),
        }
    }

    /// Assigns an id to an owner that has none. Counts no reference.
    pub fn add(&mut self, owner: &T) -> u32 {
        debug_assert!(self.get(owner).is_none(), "the owner has an id");
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.entry(self.last).is_none() && !self.removed.contains(&self.last) {
                break;
            }
        }
        self.insert(self.last, owner.clone());
        self.set_current(self.last, owner);
        self.last
    }

    /// Counts one more reference.
    pub fn acquire(&mut self, id: u32) {
        if let Some(entry) = self.entry_mut(id) {
            entry.references += 1;
        }
    }

    /// Counts one reference less. Returns true if none is left.
    pub fn release(&mut self, id: u32) -> bool {
        self.entry_mut(id).is_some_and(|entry| {
            entry.references = entry.references.saturating_sub(1);
            entry.references == 0
        })
    }

    /// Removes an id without references and quarantines it. Returns its owner.
    pub fn remove_unused(&mut self, id: u32) -> Option<T> {
        let hash = match self.entry(id) {
            Some(Entry { owner, references: 0 }) => self.hasher.hash_one(owner),
            _ => return None,
        };
        if let Ok(current) = self.current.find_entry(hash, |known| *known == id) {
            current.remove();
        }
        let page = self.pages.get_mut(&(id / PAGE))?;
        let entry = page[(id % PAGE) as usize].take()?;
        if page.iter().all(Option::is_none) {
            self.pages.remove(&(id / PAGE));
        }
        self.len -= 1;
        self.removed.add(id);
        Some(entry.owner)
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

    /// All ids in use, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.iter().flat_map(|(page, entries)| {
            let used = (0..PAGE).zip(entries.iter()).filter(|(_, entry)| entry.is_some());
            used.map(move |(at, _)| page * PAGE + at)
        })
    }

    /// Number of ids in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
