//! The pinned maps: by declaration for the reconcilers, by type for the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sluice_abi::{
    Addr, BackendRow, Counter, FlowEntry, FlowKey, Frontend, FrontendKey, LocalPod, Network,
    NetworkKey, NodeConfig, ServicePort, map, pin,
};
use sluice_bpf::{BpfError, Map, RawMap, obj_get};
use sluice_core::{Rows, TableSpec, Write};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::kernel::{self, FlowMaps, FlowTables, MapFill};

/// Maps by declaration, opened when they are first used.
#[derive(Debug, Default)]
pub struct Tables {
    open: BTreeMap<&'static str, RawMap>,
}

impl Tables {
    /// Every row of a map.
    ///
    /// # Errors
    /// The map is not pinned, has another layout, or cannot be read.
    pub fn read(&mut self, table: &'static TableSpec) -> Result<Rows, BpfError> {
        let entries = self.map(table)?.entries()?;
        Ok(Rows { table, keys: entries.keys, values: entries.values })
    }

    /// Up to `limit` rows after a key.
    ///
    /// # Errors
    /// As [`Tables::read`].
    pub fn read_after(
        &mut self,
        table: &'static TableSpec,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, BpfError> {
        let entries = self.map(table)?.entries_after(after, limit)?;
        Ok(Rows { table, keys: entries.keys, values: entries.values })
    }

    /// The rows of the given keys; absent keys are left out.
    ///
    /// # Errors
    /// As [`Tables::read`].
    pub fn read_keys(&mut self, table: &'static TableSpec, keys: &[u8]) -> Result<Rows, BpfError> {
        let map = self.map(table)?;
        let mut rows = Rows { table, keys: Vec::new(), values: Vec::new() };
        for key in keys.chunks_exact(table.key_size) {
            if let Some(value) = map.lookup(key)? {
                rows.keys.extend_from_slice(key);
                rows.values.extend_from_slice(&value);
            }
        }
        Ok(rows)
    }

    /// Writes one batch.
    ///
    /// # Errors
    /// As [`Tables::read`]; E2BIG if the map is full. Rows before the failed one are written.
    pub fn write(&mut self, write: &Write) -> Result<(), BpfError> {
        let map = self.map(write.table())?;
        match write {
            Write::Put { keys, values, .. } => map.update_batch(keys, values),
            Write::Delete { keys, .. } => map.delete_batch(keys),
        }
    }

    fn map(&mut self, table: &'static TableSpec) -> Result<&RawMap, BpfError> {
        use std::collections::btree_map::Entry;
        match self.open.entry(table.name) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let map = RawMap::open_pinned(path(table.name), table.key_size, table.value_size)?;
                Ok(entry.insert(map))
            }
        }
    }
}

/// The maps that the command line shows, with the types of the ABI.
#[derive(Debug)]
pub struct Maps {
    /// Pods of this node.
    pub local_pods: Map<Addr, LocalPod>,
    /// Kind of destination by address range.
    pub networks: Map<NetworkKey, Network>,
    /// Service addresses.
    pub frontends: Map<FrontendKey, Frontend>,
    /// Service ports.
    pub services: Map<u32, ServicePort>,
    /// Slot -> backend id.
    pub slots: Map<u32, u32>,
    /// Backend id -> backend.
    pub backends: Map<u32, BackendRow>,
    /// One entry.
    pub node_config: Map<u32, NodeConfig>,
    /// Per CPU.
    pub counters: Map<u32, Counter>,
    /// The tables of flows.
    pub flows: [Map<FlowKey, FlowEntry>; 3],
}

impl Maps {
    /// Opens the pins.
    ///
    /// # Errors
    /// ENOENT where the programs were never loaded; `InvalidData` for a map with another layout.
    pub fn open() -> Result<Maps, BpfError> {
        Ok(Maps {
            local_pods: Map::open_pinned(path(map::LOCAL_PODS))?,
            networks: Map::open_pinned(path(map::NETWORKS))?,
            frontends: Map::open_pinned(path(map::FRONTENDS))?,
            services: Map::open_pinned(path(map::SERVICES))?,
            slots: Map::open_pinned(path(map::SLOTS))?,
            backends: Map::open_pinned(path(map::BACKENDS))?,
            node_config: Map::open_pinned(path(map::NODE_CONFIG))?,
            counters: counters()?,
            flows: flow_tables()?,
        })
    }
}

/// Opens the tables of flows alone, in the order of [`map::FLOW_TABLES`].
///
/// # Errors
/// As [`Maps::open`].
pub fn flow_tables() -> Result<[Map<FlowKey, FlowEntry>; 3], BpfError> {
    let [confirmed, new_pod, new_wire] = map::FLOW_TABLES;
    Ok([open(confirmed)?, open(new_pod)?, open(new_wire)?])
}

/// Opens the pin of a map.
///
/// # Errors
/// As [`Maps::open`].
pub fn open<K, V>(name: &str) -> Result<Map<K, V>, BpfError>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    Map::open_pinned(path(name))
}

/// Opens the pin of a map whatever its layout is.
///
/// # Errors
/// ENOENT where the programs were never loaded.
pub fn open_raw(name: &str) -> Result<RawMap, BpfError> {
    RawMap::from_any(obj_get(&path(name))?)
}

/// The pins that the collection of ended flows works on.
#[derive(Clone, Copy, Debug)]
pub struct PinnedFlows;

impl FlowTables for PinnedFlows {
    fn open(&self) -> kernel::Result<FlowMaps> {
        Ok(FlowMaps {
            flows: open(map::FLOWS)?,
            pods: open(map::PODS)?,
            pod_flows: open(map::POD_FLOWS)?,
        })
    }

    fn fill(&self) -> kernel::Result<Vec<MapFill>> {
        let mut fill = Vec::new();
        for name in map::ALL {
            let map = open_raw(name)?;
            if let Some(entries) = count(&map)? {
                fill.push(MapFill { map: name, entries, capacity: map.info().max_entries });
            }
        }
        Ok(fill)
    }
}

/// Counts the entries of a map, in chunks; `None` for a map that has no absent entries.
fn count(map: &RawMap) -> Result<Option<u32>, BpfError> {
    if !has_absent_entries(map) {
        return Ok(None);
    }
    let size = map.info().key_size.max(1) as usize;
    let mut entries = 0;
    map.visit(|chunk| entries += chunk.keys.len() / size)?;
    Ok(Some(u32::try_from(entries).unwrap_or(u32::MAX)))
}

/// Whether entries of a map come and go. Arrays are always full.
fn has_absent_entries(map: &RawMap) -> bool {
    use aya_obj::generated::bpf_map_type as kind;
    let kinds = [kind::BPF_MAP_TYPE_HASH, kind::BPF_MAP_TYPE_LRU_HASH, kind::BPF_MAP_TYPE_LPM_TRIE];
    kinds.iter().any(|kind| *kind as u32 == map.info().map_type)
}

/// Opens the pin of the counters alone.
///
/// # Errors
/// As [`Maps::open`].
pub fn counters() -> Result<Map<u32, Counter>, BpfError> {
    Map::open_pinned(path(map::COUNTERS))
}

fn path(name: &str) -> PathBuf {
    Path::new(pin::MAPS).join(name)
}
