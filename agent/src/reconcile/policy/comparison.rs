//! Comparison of the large maps of policies with the desired rows, in parts.

use sluice_core::policy::{PolicyRows, Step};
use sluice_core::table::{Expected, PolicyClasses, PolicyNetworks, PolicyPeers, PortSets};

use crate::kernel::{Kernel, Result};
use crate::reconcile::walk::{Progress, Walk};

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
        let PolicyRows { ports, peers, networks, classes, .. } = &self.expected;
        let maps = [
            Expected::rows::<PortSets>(ports),
            Expected::rows::<PolicyPeers>(peers),
            Expected::rows::<PolicyNetworks>(networks),
            Expected::rows::<PolicyClasses>(classes),
        ];
        self.walk.step(&maps, kernel, |_, _| Ok(true))
    }
}
