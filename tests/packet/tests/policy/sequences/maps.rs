//! The real maps, in the place of the agent: rows are written one by one, in its order.

use std::collections::BTreeMap;

use packet_tests::Datapath;
use sluice_abi::{PodPolicy, PolicyDirection, map};
use sluice_core::policy::{CLOSED_END, PolicyRows, Step};
use sluice_core::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks, PolicyPeers,
    PortSets, Table, Write,
};
use zerocopy::FromBytes;

use super::failure::Failure;

/// The maps, and what the agent remembers of them.
pub struct Maps<'a> {
    /// The programs and their maps.
    pub datapath: &'a Datapath,
    epoch: u32,
    /// `POD_POLICY` as it was written, with revisions.
    pods: BTreeMap<u32, PodPolicy>,
}

impl<'a> Maps<'a> {
    /// Maps that have these rows.
    pub fn new(datapath: &'a Datapath, rows: &PolicyRows) -> Maps<'a> {
        let epoch = datapath.policy_epoch();
        Maps { datapath, epoch, pods: rows.pods.clone() }
    }

    /// The writes of a step.
    pub fn writes(&self, step: &Step) -> Vec<Write> {
        step.writes(self.epoch, &self.pods)
    }

    /// Carries out one row of a write.
    pub fn put_row(&self, write: &Write, at: usize) -> Result<(), Failure> {
        let is_known = self.put::<PortSets>(write, at)?
            || self.put::<PolicyPeers>(write, at)?
            || self.put::<PolicyNetworks>(write, at)?
            || self.put::<PolicyClasses>(write, at)?
            || self.put::<OpenNamespaces>(write, at)?
            || self.put::<PodPolicies>(write, at)?
            || self.put::<PolicyEpochs>(write, at)?;
        assert!(is_known, "{write:?}");
        Ok(())
    }

    fn put<T: Table>(&self, write: &Write, at: usize) -> Result<bool, Failure> {
        if write.table() != T::SPEC {
            return Ok(false);
        }
        let Some((key, value)) = write.rows().nth(at) else { return Ok(true) };
        let key = T::Key::read_from_bytes(key).expect("a key of the map");
        let table = self.datapath.map::<T::Key, T::Value>(T::SPEC.name);
        match value {
            Some(value) => {
                let value = T::Value::read_from_bytes(value).expect("a value of the map");
                table.update(&key, &value).unwrap();
            }
            None if table.delete(&key).unwrap() => {}
            None => return Err(Failure::of_rows(format!("{key:?} is deleted, but absent"))),
        }
        Ok(true)
    }

    /// Takes in a step that was carried out.
    pub fn written(&mut self, step: &Step) {
        step.written(&mut self.epoch, &mut self.pods);
    }

    /// Whether a verdict of an epoch is later than the last change that affects the pod with this index.
    pub fn is_current(&self, index: u32, judged: u32) -> bool {
        let revision = self.pods.get(&index).map_or(judged, |row| row.revision);
        judged.wrapping_sub(revision).cast_signed() >= 0
    }

    /// Whether a pod with a row is closed to flows of others for a while.
    pub fn closes_ingress(&self, index: u32) -> bool {
        let pods = self.datapath.map::<u32, PodPolicy>(map::POD_POLICY);
        let row = pods.lookup(&index).unwrap().unwrap_or_default();
        row.ends[PolicyDirection::Ingress as usize] == CLOSED_END
    }

    fn read<T: Table>(&self) -> BTreeMap<T::Key, T::Value> {
        let table = self.datapath.map::<T::Key, T::Value>(T::SPEC.name);
        table.entries().unwrap().into_iter().collect()
    }

    /// All rows, with revision 0.
    pub fn rows(&self) -> PolicyRows {
        let pods = self.datapath.map::<u32, PodPolicy>(map::POD_POLICY);
        let row = |index| pods.lookup(&index).unwrap().unwrap_or_default();
        let pods = (0..64).map(|index| (index, PodPolicy { revision: 0, ..row(index) }));
        PolicyRows {
            pods: pods.filter(|(_, row)| row.generation != 0).collect(),
            classes: self.read::<PolicyClasses>(),
            networks: self.read::<PolicyNetworks>(),
            peers: self.read::<PolicyPeers>(),
            ports: self.read::<PortSets>(),
            open_namespaces: self.read::<OpenNamespaces>(),
        }
    }
}
