//! What reconcilers report about each other's progress: repairs, a comparison, attachments.

use std::collections::BTreeMap;
use std::time::Duration;

use super::State;
use crate::conditions::Concern;

impl State {
    /// Whether the Service maps are reconciled at each poll: a comparison is under way, or rows wait
    /// for space.
    pub fn poll_maps(&mut self, poll: bool) {
        self.poll_maps = poll;
    }

    /// Keeps the programs that are attached, which are those of another version, until this one takes
    /// over.
    pub fn take_over_later(&mut self) {
        self.takes_over = true;
    }

    /// Records that this version's programs handle all packets.
    pub fn set_taken_over(&mut self) {
        self.takes_over = false;
        // The former programs may have used former maps until now.
        self.compare_sockets();
        self.replace_programs();
        // Namespaces may have to be opened.
        self.mark([Concern::Policy]);
    }

    /// Whether the pinned programs may replace those that are attached.
    pub fn may_attach(&self) -> bool {
        !self.takes_over
    }

    /// Records that the CNI binary was replaced.
    pub fn set_cni_binary_installed(&mut self) {
        self.pins_replaced = Some(self.now());
    }

    /// Time since this agent replaced the CNI binary or the pinned programs, or started: a former one may
    /// have replaced them right before.
    pub fn pins_age(&self) -> Duration {
        self.now().duration_since(self.pins_replaced.unwrap_or(self.started))
    }

    /// Counts changes by other programs that were repaired, by kind. Programs that this agent replaced
    /// are not repairs.
    pub fn repaired(&mut self, kind: &'static str, count: usize) {
        let replaced = self.pins_replaced == Some(self.now()) && kind.ends_with("_programs");
        if count > 0 && !replaced {
            *self.repairs.entry(kind).or_default() += count as u64;
        }
    }

    /// Repairs since the start, by kind.
    pub fn repairs(&self) -> &BTreeMap<&'static str, u64> {
        &self.repairs
    }
}
