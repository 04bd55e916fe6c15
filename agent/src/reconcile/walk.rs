//! A walk through the rows of several maps, in parts: a full read takes as long as a start.
//!
//! Each part reads rows in the order of the map. Rows that are missing show in the number of rows, which
//! is only meaningful if nothing was written meanwhile.

use sluice_core::Rows;
use sluice_core::table::Expected;

use crate::kernel::{Kernel, Result};

/// Rows of one part.
pub const PART: usize = 2048;

/// Walks in a row that may leave open whether rows are missing.
pub const UNCOUNTED_MAX: u32 = 2;

/// State after a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More parts follow.
    More,
    /// All rows are as expected.
    Equal,
    /// All rows that exist are as expected; rows may be missing.
    Uncounted,
    /// A row differs.
    Differs,
}

/// A walk that is under way.
#[derive(Debug, Default)]
pub struct Walk {
    /// Index of the map.
    table: usize,
    /// Key of the last row.
    after: Option<Vec<u8>>,
    /// Rows of the map so far.
    rows: usize,
    /// Whether rows were written since the start.
    written: bool,
}

impl Walk {
    /// Records that rows were written.
    pub fn rows_written(&mut self) {
        self.written = true;
    }

    /// Reads the next part of these maps. `is_complete` compares what rows refer to.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn step(
        &mut self,
        maps: &[Expected<'_>],
        kernel: &mut dyn Kernel,
        is_complete: impl Fn(&Rows, &mut dyn Kernel) -> Result<bool>,
    ) -> Result<Progress> {
        let mut budget = PART;
        while let Some(expected) = maps.get(self.table) {
            let (table, count) = (expected.table, expected.count);
            let rows = kernel.read_after(table, self.after.as_deref(), budget)?;
            if !expected.has(&rows) || !is_complete(&rows, kernel)? {
                return Ok(Progress::Differs);
            }
            self.rows += rows.len();
            budget = budget.saturating_sub(rows.len());
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
