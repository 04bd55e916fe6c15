//! Comparison of the rows in the kernel with those that were written, in parts; with the rows of Service
//! ports their slots.

use std::collections::BTreeMap;

use sluice_core::table::{Services, Slots, Table};
use sluice_core::{RealizedState, Rows};

use crate::kernel::{Kernel, Result};
use crate::reconcile::walk::{Progress, Walk};

/// Compares the next part.
///
/// # Errors
/// The rows cannot be read.
pub fn step(
    walk: &mut Walk,
    realized: &RealizedState,
    kernel: &mut dyn Kernel,
) -> Result<Progress> {
    walk.step(&realized.expected(), kernel, |rows, kernel| has_slots(realized, rows, kernel))
}

/// Whether the slots of these rows, if they are Service ports, are as they were written.
fn has_slots(realized: &RealizedState, rows: &Rows, kernel: &mut dyn Kernel) -> Result<bool> {
    if rows.table != Services::SPEC {
        return Ok(true);
    }
    let expected = realized.slots_of(rows);
    let found = kernel.read_keys(Slots::SPEC, &expected.keys)?;
    let by_slot = |rows: &Rows| rows.typed::<Slots>().collect::<BTreeMap<_, _>>();
    Ok(by_slot(&found) == by_slot(&expected))
}
