//! Changes by other programs that were repaired.

use std::collections::BTreeMap;

use super::State;

impl State {
    /// Counts changes by other programs that were repaired, by kind.
    pub fn repaired(&mut self, kind: &'static str, count: usize) {
        if count > 0 {
            *self.repairs.entry(kind).or_default() += count as u64;
        }
    }

    /// Repairs since the start, by kind.
    pub fn repairs(&self) -> &BTreeMap<&'static str, u64> {
        &self.repairs
    }
}
