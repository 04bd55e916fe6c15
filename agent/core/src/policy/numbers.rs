//! Small sets of numbers, and such sets by keys.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use crate::visits::visit;

/// Numbers, sorted. Most sets have one or a few, for which a tree would take several times the memory.
#[derive(Clone, Debug, Default)]
pub struct Numbers(Vec<u32>);

impl Numbers {
    /// Adds a number, unless the set has it.
    pub fn insert(&mut self, number: u32) {
        if let Err(place) = self.0.binary_search(&number) {
            if self.0.is_empty() {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, number);
        }
    }

    /// Removes a number, if the set has it.
    pub fn remove(&mut self, number: u32) {
        if let Ok(place) = self.0.binary_search(&number) {
            self.0.remove(place);
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied().inspect(|_| visit())
    }
}

/// Sets by keys; no set is empty.
#[derive(Clone, Debug)]
pub struct NumbersBy<K>(HashMap<K, Numbers>);

impl<K> Default for NumbersBy<K> {
    fn default() -> NumbersBy<K> {
        NumbersBy(HashMap::new())
    }
}

impl<K: Hash + Eq> NumbersBy<K> {
    /// Adds a number to the set of a key.
    pub fn insert(&mut self, key: K, number: u32) {
        self.0.entry(key).or_default().insert(number);
    }

    /// Removes a number from the set of a key.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, number: u32)
    where
        K: Borrow<Q>,
    {
        if let Some(set) = self.0.get_mut(key) {
            set.remove(number);
            if set.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The numbers of a key.
    pub fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> impl Iterator<Item = u32> + use<'_, K, Q>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flat_map(Numbers::iter)
    }

    /// Size of the set of a key.
    pub fn count<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map_or(0, |numbers| numbers.0.len())
    }

    /// Whether a key has a set.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Whether no key has a set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sorted_and_vanish_when_empty() {
        let mut sets: NumbersBy<&str> = NumbersBy::default();
        for number in [5, 1, 5, 3] {
            sets.insert("a", number);
        }
        assert_eq!(sets.of("a").collect::<Vec<_>>(), [1, 3, 5]);
        for number in [9, 3, 1, 5] {
            sets.remove("a", number);
        }
        assert_eq!((sets.keys().count(), sets.of("a").count()), (0, 0));
    }
}
