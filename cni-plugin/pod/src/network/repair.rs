//! Repair: the programs and the row, which a crash or an upgrade can leave missing or outdated.

use sluice_bpf::attach::{AttachOutcome, attach_device};

use super::{NetworkError, PodNetwork};
use crate::dataplane::Dataplane;
use crate::device::Link;
use crate::inventory;

/// What a repair changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// A program was attached or replaced.
    pub programs: bool,
    /// The row in `LOCAL_PODS` was missing or wrong, and was written.
    pub row: bool,
}

impl Repaired {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self.programs || self.row
    }
}

impl PodNetwork<'_> {
    /// Attaches the pinned programs to the host's end and writes the `LOCAL_PODS` row, where they
    /// are missing or outdated. `host_end` must be up: until then, ADD owns it.
    ///
    /// # Errors
    /// A program cannot be attached; the row cannot be read or written. The row is not written if
    /// a program is missing: it would make the pod reachable without its programs.
    pub fn repair(
        &mut self,
        host_end: &Link,
        dataplane: &Dataplane,
    ) -> Result<Repaired, NetworkError> {
        let mut repaired = Repaired::default();
        for (direction, prog) in dataplane.hooks() {
            let outcome = attach_device(self.host, host_end.index, direction, prog)
                .map_err(|source| NetworkError::Attach { device: host_end.name.clone(), source })?;
            repaired.programs |= outcome != AttachOutcome::Unchanged;
        }
        let address = self.lease.address.into();
        let row = inventory::local_pod(self.lease, host_end);
        if dataplane.local_pods.lookup(&address)? != Some(row) {
            dataplane.local_pods.update(&address, &row)?;
            repaired.row = true;
        }
        Ok(repaired)
    }
}
