//! Replaces maps by larger ones while the agent runs.
//!
//! Loading does the work ([`super::load`]): maps of another capacity make way, programs that use them
//! go on with them, the tables are copied. The reconciler of the migration then switches the hooks.

use sluice_core::diff::Capacity;

use super::migration::{self, MigrationError};
use super::sizes::{self, Sizes};
use super::{LinuxKernel, heap, load, maps, pins};
use crate::kernel::{Grown, KernelError, Result};

impl LinuxKernel {
    /// Loads maps with these capacities, or larger ones if such are pinned. After a failure, and when the
    /// agent is to stop, the present maps and programs are pinned as before.
    pub(super) fn load_larger(&mut self, least: Capacity) -> Result<Grown> {
        if migration::is_interrupted()? {
            return Err(KernelError::Migration(MigrationError::FlowsNotCopied));
        }
        self.pins_are_valid = false;
        let grown = self.load(least);
        if grown.is_err()
            && let Err(error) = self.load_present()
        {
            if error.is_stopping() {
                // The next agent loads what the record does not name.
                tracing::info!("present programs not verified again: the agent is stopping");
            } else {
                tracing::error!(
                    error = %sluice_bpf::error_chain(&error),
                    "could not pin the present maps and programs again, repeated before the next switch"
                );
            }
        }
        grown
    }

    /// Pins the present maps and programs again after a failure.
    pub(super) fn load_present(&mut self) -> Result<()> {
        if self.pins_are_valid {
            return Ok(());
        }
        self.pins.restore()?;
        self.load(Capacity::NONE).map(drop)
    }

    fn load(&mut self, least: Capacity) -> Result<Grown> {
        let loaded = load::load(&Sizes { least, ..self.sizes }, &self.stop)?;
        heap::trim();
        self.tables = maps::Tables::default();
        self.pins = pins::Pins::open()?;
        self.pins_are_valid = true;
        Ok(Grown { capacity: sizes::pinned()?, takes_over: loaded.takes_over_from.is_some() })
    }
}
