//! Rows of a map, and what changed in them since the last step.

use std::collections::BTreeMap;

use super::RowChange;
use crate::visits::visit;

/// Rows with the former values of those that changed.
#[derive(Clone, Debug)]
pub struct Tracked<K, V> {
    rows: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Tracked<K, V> {
        Tracked { rows: BTreeMap::new(), before: BTreeMap::new() }
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
            self.before.entry(key).or_insert(former);
        }
    }

    /// The rows.
    pub fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    /// The changes since the last call.
    pub fn take(&mut self) -> RowChange<K, V> {
        let mut change = RowChange::default();
        for (key, before) in std::mem::take(&mut self.before) {
            match self.rows.get(&key) {
                Some(now) if before != Some(*now) => change.puts.push((key, *now)),
                None if before.is_some() => change.deletes.push(key),
                _ => {}
            }
        }
        change
    }
}
