//! Comparison of the large maps of policies with the desired rows, in parts.

use std::collections::BTreeMap;

use sluice_core::policy::{PolicyRows, Step};
use sluice_core::table::{PolicyClasses, PolicyNetworks, PolicyPeers, PortSets, Table};
use sluice_core::{Rows, TableSpec};

use crate::kernel::{Kernel, Result};
use crate::reconcile::walk::{Progress, Walk};

/// The maps in the order of comparison.
const TABLES: [&TableSpec; 4] =
    [PortSets::SPEC, PolicyPeers::SPEC, PolicyNetworks::SPEC, PolicyClasses::SPEC];

/// A comparison that is under way.
#[derive(Debug)]
pub struct Comparison {
    expected: PolicyRows,
    walk: Walk,
}

impl Comparison {
    /// A comparison with these rows.
    pub fn new(expected: PolicyRows) -> Comparison {
        Comparison { expected, walk: Walk::default() }
    }

    /// Takes in a step that was carried out.
    pub fn written(&mut self, step: &Step) {
        self.walk.rows_written();
        step.ports.apply(&mut self.expected.ports);
        step.peers.apply(&mut self.expected.peers);
        step.networks.apply(&mut self.expected.networks);
        step.classes.apply(&mut self.expected.classes);
    }

    /// Compares the next part.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn step(&mut self, kernel: &mut dyn Kernel) -> Result<Progress> {
        let expected = &self.expected;
        self.walk.step(&TABLES, kernel, |rows, _| Ok(count_if_equal(expected, rows)))
    }
}

/// The number of expected rows of a map, if these rows of it are among them.
fn count_if_equal(expected: &PolicyRows, rows: &Rows) -> Option<usize> {
    fn compare<T: Table>(rows: &Rows, expected: &BTreeMap<T::Key, T::Value>) -> Option<usize> {
        let is_equal = rows.typed::<T>().all(|(key, value)| expected.get(&key) == Some(&value));
        is_equal.then_some(expected.len())
    }
    let PolicyRows { ports, peers, networks, classes, .. } = expected;
    match rows.table.name {
        name if name == PortSets::SPEC.name => compare::<PortSets>(rows, ports),
        name if name == PolicyPeers::SPEC.name => compare::<PolicyPeers>(rows, peers),
        name if name == PolicyNetworks::SPEC.name => compare::<PolicyNetworks>(rows, networks),
        _ => compare::<PolicyClasses>(rows, classes),
    }
}
