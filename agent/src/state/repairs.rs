//! What reconcilers report about each other's progress: repairs, a comparison, attachments.

use std::collections::BTreeMap;

use super::State;

impl State {
    /// Whether the Service maps are reconciled at each poll: a comparison is under way, or rows wait
    /// for space.
    pub fn poll_maps(&mut self, poll: bool) {
        self.poll_maps = poll;
    }

    /// Keeps the programs that are attached until the tables of the new ones are written.
    pub fn attach_after_tables(&mut self) {
        self.attach_after_tables = true;
    }

    /// Whether the pinned programs may replace those that are attached.
    pub fn may_attach(&self) -> bool {
        self.tables_written || !self.attach_after_tables
    }

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
