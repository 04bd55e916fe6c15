//! The pinned maps, each with the types that the ABI gives it.

use std::path::Path;

use sluice_abi::{
    Addr, Backend, Counter, FlowEntry, FlowKey, Frontend, FrontendKey, LocalPod, Network,
    NetworkKey, NodeConfig, map, pin,
};
use sluice_bpf::{BpfError, Map};

/// Every map that the agent reads or writes.
#[derive(Debug)]
pub struct Maps {
    /// Pods of this node.
    pub local_pods: Map<Addr, LocalPod>,
    /// What kind of place an address is.
    pub networks: Map<NetworkKey, Network>,
    /// Service addresses.
    pub frontends: Map<FrontendKey, Frontend>,
    /// Slot -> backend id.
    pub slots: Map<u32, u32>,
    /// Backend id -> backend.
    pub backends: Map<u32, Backend>,
    /// One entry.
    pub node_config: Map<u32, NodeConfig>,
    /// Per CPU.
    pub counters: Map<u32, Counter>,
    /// Flows, read by the command line only.
    pub conntrack: Map<FlowKey, FlowEntry>,
}

impl Maps {
    /// Opens the pins.
    ///
    /// # Errors
    /// ENOENT where the dataplane was never loaded; InvalidData where a map has another layout.
    pub fn open() -> Result<Maps, BpfError> {
        let at = |name: &str| Path::new(pin::MAPS).join(name);
        Ok(Maps {
            local_pods: Map::open_pinned(at(map::LOCAL_PODS))?,
            networks: Map::open_pinned(at(map::NETWORKS))?,
            frontends: Map::open_pinned(at(map::FRONTENDS))?,
            slots: Map::open_pinned(at(map::SLOTS))?,
            backends: Map::open_pinned(at(map::BACKENDS))?,
            node_config: Map::open_pinned(at(map::NODE_CONFIG))?,
            counters: Map::open_pinned(at(map::COUNTERS))?,
            conntrack: Map::open_pinned(at(map::CONNTRACK))?,
        })
    }
}
