//! Rows of a map, and what changed in them since the last step.

use std::collections::BTreeMap;

use super::RowChange;
use crate::visits::visit;

/// Which rows are meant.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Those at the last call of [`Tracked::end_update`].
    BeforeUpdate,
    /// The present ones.
    Now,
}

/// Rows with the former values of those that changed.
#[derive(Clone, Debug)]
pub struct Tracked<K, V> {
    rows: BTreeMap<K, V>,
    /// Values before the step.
    before_step: BTreeMap<K, Option<V>>,
    /// Values before the update, which has several steps, of the rows that these have changed.
    before_update: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Tracked<K, V> {
        Tracked {
            rows: BTreeMap::new(),
            before_step: BTreeMap::new(),
            before_update: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy, V: Copy + PartialEq> Tracked<K, V> {
    /// Adds, replaces or removes a row.
    pub fn set(&mut self, key: K, value: Option<V>) {
        visit();
        let former = match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        };
        if former != value {
            self.before_step.entry(key).or_insert(former);
        }
    }

    /// The rows.
    pub fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    /// A row. Requires that the changes were taken.
    pub fn row(&self, when: When, key: &K) -> Option<V> {
        visit();
        match (when, self.before_update.get(key)) {
            (When::BeforeUpdate, Some(before)) => *before,
            _ => self.rows.get(key).copied(),
        }
    }

    /// The keys whose rows were changed by steps since the last call of [`Tracked::end_update`].
    pub fn changed_in_update(&self) -> impl Iterator<Item = &K> {
        self.before_update.keys()
    }

    /// Whether the row of a key was changed by a step since the last call of [`Tracked::end_update`].
    pub fn has_changed_in_update(&self, key: &K) -> bool {
        self.before_update.contains_key(key)
    }

    /// Forgets the rows from before.
    pub fn end_update(&mut self) {
        self.before_update.clear();
    }

    /// The changes since the last call.
    pub fn take(&mut self) -> RowChange<K, V> {
        let mut change = RowChange::default();
        for (key, before) in std::mem::take(&mut self.before_step) {
            match self.rows.get(&key) {
                Some(now) if before != Some(*now) => change.puts.push((key, *now)),
                None if before.is_some() => change.deletes.push(key),
                _ => continue,
            }
            self.before_update.entry(key).or_insert(before);
        }
        change
    }
}
