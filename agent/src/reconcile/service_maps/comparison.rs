//! Comparison of the rows in the kernel with those that were written, in parts: a full read takes as
//! long as a start.
//!
//! Each part reads rows in the order of the map, and the slots of the Service ports among them. Rows that
//! are missing show in the number of rows, which is only meaningful if nothing was written meanwhile.

use std::collections::BTreeMap;

use sluice_core::table::{Backends, Frontends, Networks, Services, Slots, SourceRanges, Table};
use sluice_core::{RealizedState, Rows, TableSpec};

use crate::kernel::{Kernel, Result};

/// The maps in the order of comparison.
const TABLES: [&TableSpec; 5] =
    [Backends::SPEC, Services::SPEC, SourceRanges::SPEC, Frontends::SPEC, Networks::SPEC];

/// Rows of one part.
pub const PART: usize = 2048;

/// State after a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More parts follow.
    More,
    /// All rows are as they were written.
    Equal,
    /// All rows that exist are as they were written; rows may be missing.
    Uncounted,
    /// A row differs.
    Differs,
}

/// A comparison that is under way.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Index of the map.
    table: usize,
    /// Key of the last row.
    after: Option<Vec<u8>>,
    /// Rows of the map so far.
    rows: usize,
    /// Whether rows were written since the start.
    written: bool,
}

impl Comparison {
    /// Records that rows were written.
    pub fn rows_written(&mut self) {
        self.written = true;
    }

    /// Compares the next part.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn step(&mut self, realized: &RealizedState, kernel: &mut dyn Kernel) -> Result<Progress> {
        let mut budget = PART;
        while let Some(table) = TABLES.get(self.table).copied() {
            let rows = kernel.read_after(table, self.after.as_deref(), budget)?;
            if !realized.holds(&rows) {
                return Ok(Progress::Differs);
            }
            if table == Services::SPEC {
                let expected = realized.slots_of(&rows);
                let found = kernel.read_keys(Slots::SPEC, &expected.keys)?;
                let by_slot = |rows: &Rows| rows.typed::<Slots>().collect::<BTreeMap<_, _>>();
                if by_slot(&found) != by_slot(&expected) {
                    return Ok(Progress::Differs);
                }
            }
            self.rows += rows.len();
            budget = budget.saturating_sub(rows.len());
            let count = realized.count(table);
            // A map that starts over, because the last row was deleted, ends here too.
            if !rows.is_empty() && self.rows <= 2 * count + PART {
                let end = rows.keys.len();
                self.after = Some(rows.keys[end - table.key_size..].to_vec());
                if budget > 0 {
                    continue;
                }
                return Ok(Progress::More);
            }
            if !self.written && self.rows != count {
                return Ok(Progress::Differs);
            }
            (self.table, self.after, self.rows) = (self.table + 1, None, 0);
        }
        Ok(if self.written { Progress::Uncounted } else { Progress::Equal })
    }
}
