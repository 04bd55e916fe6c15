//! What the collection of ended flows reads and writes, on its own thread.

use sluice_abi::{FlowEntry, FlowKey, LocalPod, PodFlows};
use sluice_bpf::Map;

use super::Result;

/// The maps of one round.
#[derive(Debug)]
pub struct FlowMaps {
    /// `FLOWS`, the table of answered flows.
    pub flows: Map<FlowKey, FlowEntry>,
    /// `PODS`, by index.
    pub pods: Map<u32, LocalPod>,
    /// `POD_FLOWS`, by index of the pod.
    pub pod_flows: Map<u32, PodFlows>,
}

/// Fill of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Name of the map.
    pub map: &'static str,
    /// Its entries.
    pub entries: u32,
    /// Most entries that it can have.
    pub capacity: u32,
}

/// Opens the maps anew for each round: their pins may have been replaced.
pub trait FlowTables: Send {
    /// The maps of flows.
    ///
    /// # Errors
    /// A map is not pinned, or has another layout.
    fn open(&self) -> Result<FlowMaps>;

    /// Fill of every map whose entries come and go.
    ///
    /// # Errors
    /// A map is not pinned, or cannot be read.
    fn fill(&self) -> Result<Vec<MapFill>>;
}
