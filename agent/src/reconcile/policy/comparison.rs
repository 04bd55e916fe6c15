//! Comparison of the large maps of policies with the desired rows, in parts.
//!
//! Rows that are missing show in the number of rows, which is only meaningful if nothing was written
//! meanwhile.

use std::collections::BTreeMap;

use sluice_core::policy::{PolicyRows, RowChange, Step};
use sluice_core::table::{PolicyClasses, PolicyNetworks, PolicyPeers, PortSets, Table};
use sluice_core::{Rows, TableSpec};

use crate::kernel::{Kernel, Result};

/// The maps in the order of comparison.
const TABLES: [&TableSpec; 4] =
    [PortSets::SPEC, PolicyPeers::SPEC, PolicyNetworks::SPEC, PolicyClasses::SPEC];

/// Rows of one part.
const PART: usize = 2048;

/// State after a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More parts follow.
    More,
    /// All rows are as desired.
    Equal,
    /// All rows that exist are as desired; rows may be missing.
    Uncounted,
    /// A row differs.
    Differs,
}

/// A comparison that is under way.
#[derive(Debug)]
pub struct Comparison {
    expected: PolicyRows,
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
    /// A comparison with these rows.
    pub fn new(expected: PolicyRows) -> Comparison {
        Comparison { expected, table: 0, after: None, rows: 0, written: false }
    }

    /// Takes in a step that was carried out.
    pub fn written(&mut self, step: &Step) {
        self.written = true;
        apply(&mut self.expected.ports, &step.ports);
        apply(&mut self.expected.peers, &step.peers);
        apply(&mut self.expected.networks, &step.networks);
        apply(&mut self.expected.classes, &step.classes);
    }

    /// Compares the next part.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn step(&mut self, kernel: &mut dyn Kernel) -> Result<Progress> {
        let mut budget = PART;
        while let Some(table) = TABLES.get(self.table).copied() {
            let rows = kernel.read_after(table, self.after.as_deref(), budget)?;
            let (equal, count) = self.compare(&rows);
            if !equal {
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

    /// Whether all rows are as desired, and the number of desired rows of the map.
    fn compare(&self, rows: &Rows) -> (bool, usize) {
        fn compare<T: Table>(rows: &Rows, expected: &BTreeMap<T::Key, T::Value>) -> (bool, usize) {
            let equal = rows.typed::<T>().all(|(key, value)| expected.get(&key) == Some(&value));
            (equal, expected.len())
        }
        let PolicyRows { ports, peers, networks, classes, .. } = &self.expected;
        match self.table {
            0 => compare::<PortSets>(rows, ports),
            1 => compare::<PolicyPeers>(rows, peers),
            2 => compare::<PolicyNetworks>(rows, networks),
            _ => compare::<PolicyClasses>(rows, classes),
        }
    }
}

fn apply<K: Ord + Copy, V: Copy>(rows: &mut BTreeMap<K, V>, change: &RowChange<K, V>) {
    rows.extend(change.puts.iter().copied());
    for key in &change.deletes {
        rows.remove(key);
    }
}
