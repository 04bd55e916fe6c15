//! The rows that the maps have, and what leads from them to the desired ones.

use std::collections::BTreeMap;

use sluice_abi::PodPolicy;
use sluice_core::policy::{PolicyRows, RowChange, Step};
use sluice_core::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks, PolicyPeers,
    PortSets, Table, Write,
};

use crate::kernel::{Kernel, Result};

/// The small maps as they were read or written: rows of pods with their revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `POLICY_EPOCH`.
    pub epoch: u32,
    pods: BTreeMap<u32, PodPolicy>,
    open_namespaces: BTreeMap<u64, u32>,
}

fn read<T: Table>(kernel: &mut dyn Kernel) -> Result<BTreeMap<T::Key, T::Value>> {
    Ok(kernel.read(T::SPEC)?.typed::<T>().collect())
}

impl Found {
    fn read_small(kernel: &mut dyn Kernel) -> Result<Found> {
        let mut pods = read::<PodPolicies>(kernel)?;
        pods.retain(|_, row| *row != PodPolicy::default());
        Ok(Found {
            epoch: read::<PolicyEpochs>(kernel)?.into_values().next().unwrap_or_default(),
            pods,
            open_namespaces: read::<OpenNamespaces>(kernel)?,
        })
    }

    /// Reads all maps. The rows of pods are also in the second result, with revision 0.
    pub fn read(kernel: &mut dyn Kernel) -> Result<(Found, PolicyRows)> {
        let found = Found::read_small(kernel)?;
        let pods =
            found.pods.iter().map(|(index, row)| (*index, PodPolicy { revision: 0, ..*row }));
        let rows = PolicyRows {
            pods: pods.collect(),
            classes: read::<PolicyClasses>(kernel)?,
            networks: read::<PolicyNetworks>(kernel)?,
            peers: read::<PolicyPeers>(kernel)?,
            ports: read::<PortSets>(kernel)?,
            open_namespaces: found.open_namespaces.clone(),
        };
        Ok((found, rows))
    }

    /// Whether the small maps still have these rows.
    pub fn holds(&self, kernel: &mut dyn Kernel) -> Result<bool> {
        Ok(Found::read_small(kernel)? == *self)
    }

    /// The writes of a step.
    pub fn writes(&self, step: &Step) -> Vec<Write> {
        step.writes(self.epoch, &self.pods)
    }

    /// Opens the namespaces among `wanted` that are not open.
    pub fn openings(&self, wanted: &BTreeMap<u64, u32>) -> Step {
        let puts = RowChange::between(&self.open_namespaces, wanted).puts;
        let open_namespaces = RowChange { puts, deletes: Vec::new() };
        Step { open_namespaces, ..Step::default() }
    }

    /// Takes in a step that was carried out.
    pub fn written(&mut self, step: &Step) {
        step.written(&mut self.epoch, &mut self.pods);
        step.open_namespaces.apply(&mut self.open_namespaces);
    }

    /// Whether a row has a revision that `POLICY_EPOCH` has not reached: the step that wrote it was not
    /// carried out completely.
    pub fn is_ahead(&self) -> bool {
        self.pods.values().any(|row| self.distance(row.revision) > 0)
    }

    /// Makes the next epoch follow all revisions, and `floor`: flows may have been judged at that
    /// epoch.
    pub fn catch_up(&mut self, floor: Option<u32>) {
        let revisions = self.pods.values().map(|row| row.revision).chain(floor);
        if let Some(last) = revisions.max_by_key(|revision| self.distance(*revision)) {
            let distance = self.distance(last).max(0).unsigned_abs();
            self.epoch = self.epoch.wrapping_add(distance);
        }
    }

    /// How far a revision is ahead of the epoch.
    fn distance(&self, revision: u32) -> i32 {
        revision.wrapping_sub(self.epoch).cast_signed()
    }
}
