//! One copy of each content in use, with a number for this process and an id for the maps.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::visits::visit;

/// Table of pods that are closed because their tables do not fit.
pub const CLOSED: u64 = u64::MAX;

/// The id of a content: the same in every process. Not 0, not [`CLOSED`].
pub fn content_id(content: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish().clamp(1, CLOSED - 1)
}

#[derive(Clone, Debug)]
struct Entry<T> {
    content: Arc<T>,
    id: u64,
    references: u32,
    collides: bool,
}

/// Contents with references. A number is valid as long as its content has a reference.
#[derive(Clone, Debug)]
pub struct Registry<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    by_content: HashMap<Arc<T>, u32>,
    by_id: HashMap<u64, u32>,
    /// Bits of an id that are used; fewer in tests of collisions.
    pub mask: u64,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry {
            entries: Vec::new(),
            free: Vec::new(),
            by_content: HashMap::new(),
            by_id: HashMap::new(),
            mask: u64::MAX,
        }
    }
}

impl<T: Hash + Eq> Registry<T> {
    /// The number of a content, with one more reference, and whether it is new. `id` computes the id of a
    /// new one.
    pub fn intern(&mut self, content: T, id: impl FnOnce(&T) -> u64) -> (u32, bool) {
        visit();
        if let Some(number) = self.by_content.get(&content) {
            self.entries[*number as usize].references += 1;
            return (*number, false);
        }
        let id = (id(&content) & self.mask).max(1);
        let content = Arc::new(content);
        let number = self.free.pop().unwrap_or(self.entries.len() as u32);
        let collides = *self.by_id.entry(id).or_insert(number) != number;
        let entry = Entry { content: Arc::clone(&content), id, references: 1, collides };
        match self.entries.get_mut(number as usize) {
            Some(slot) => *slot = entry,
            None => self.entries.push(entry),
        }
        self.by_content.insert(content, number);
        (number, true)
    }

    /// The number of a content, if it has one.
    pub fn find(&self, content: &T) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    /// Adds a reference.
    pub fn retain(&mut self, number: u32) {
        visit();
        self.entries[number as usize].references += 1;
    }

    /// Removes a reference; returns the content if it was the last one.
    pub fn release(&mut self, number: u32) -> Option<Arc<T>> {
        visit();
        let entry = &mut self.entries[number as usize];
        entry.references -= 1;
        if entry.references > 0 {
            return None;
        }
        let (content, id, collides) = (Arc::clone(&entry.content), entry.id, entry.collides);
        self.by_content.remove(&content);
        if !collides {
            self.by_id.remove(&id);
        }
        self.free.push(number);
        Some(content)
    }

    /// A content.
    pub fn get(&self, number: u32) -> &Arc<T> {
        visit();
        &self.entries[number as usize].content
    }

    /// The id of a content.
    pub fn id(&self, number: u32) -> u64 {
        visit();
        self.entries[number as usize].id
    }

    /// The content with an id; of several, the first one.
    pub fn with_id(&self, id: u64) -> Option<&Arc<T>> {
        self.by_id.get(&id).map(|number| self.get(*number))
    }

    /// Whether another content had the id before.
    pub fn collides(&self, number: u32) -> bool {
        self.entries[number as usize].collides
    }

    /// Number of contents.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_content.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_one_number_and_second_content_of_an_id_collides() {
        let mut registry: Registry<&str> = Registry::default();
        let (a, new) = registry.intern("a", |_| 7);
        assert!(new && registry.intern("a", |_| 7) == (a, false));
        let (b, _) = registry.intern("b", |_| 7);
        assert!(a != b && registry.collides(b) && !registry.collides(a));
        assert!(registry.release(b).is_some() && registry.release(a).is_none());
        assert!(registry.release(a).is_some());
        let (c, _) = registry.intern("c", |_| 7);
        assert!(!registry.collides(c));
        assert_eq!((registry.len(), registry.id(c)), (1, 7));
    }
}
