//! What a state that was read back takes from the one before.

use super::RealizedServices;
use super::port::RealizedPort;

impl RealizedServices {
    /// Takes over what only the state before a failed write knows: the owners of ids. Quarantines the
    /// slots and ids that only that state used.
    pub(in crate::diff) fn succeed(&mut self, previous: &RealizedServices) {
        self.succeed_ids(previous);
        let used = previous.ports.values().flat_map(RealizedPort::sets);
        let used = used.filter(|set| !set.broken).map(|set| set.range);
        for range in used.chain(previous.freed.iter()) {
            if range.len > 0 && self.slots.reserve(range) {
                self.freed.add(range);
            }
        }
    }

    /// As [`RealizedServices::succeed`], without slots.
    pub(in crate::diff) fn succeed_ids(&mut self, previous: &RealizedServices) {
        for id in self.ports.keys() {
            if let Some(owner) = previous.services.owner(*id) {
                self.services.adopt(*id, owner);
            }
        }
        self.services.succeed(&previous.services);
        // The previous instance knows the Service ports of backends that none selects.
        for (backend, ids) in &mut self.unclaimed {
            ids.retain(|(service, id)| match previous.backends.owner(*id) {
                Some(owner) if owner.1 == *backend && [0, owner.0].contains(service) => {
                    !self.backends.adopt(*id, owner)
                }
                _ => true,
            });
        }
        self.unclaimed.retain(|_, ids| !ids.is_empty());
        self.backends.succeed(&previous.backends);
    }
}
