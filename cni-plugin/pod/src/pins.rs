//! The pinned programs and the map that a pod's wiring needs; found by path alone, so that no
//! agent has to run.

use std::os::fd::OwnedFd;
use std::path::Path;

use sluice_abi::{Addr, LocalPod, map, program};

use sluice_bpf::{BpfError, Map, obj_get};

/// What the agent left in bpffs.
#[derive(Debug)]
pub struct Dataplane {
    /// Runs on what the pod sends.
    pub from_pod: OwnedFd,
    /// Runs on what the node's stack sends to the pod.
    pub to_pod: OwnedFd,
    /// The pods of this node.
    pub local_pods: Map<Addr, LocalPod>,
}

impl Dataplane {
    /// Opens the pins below `root` (`maps/`, `programs/`).
    ///
    /// # Errors
    /// If one is missing or of the wrong shape.
    pub fn open(root: &Path) -> Result<Dataplane, BpfError> {
        let programs = root.join("programs");
        Ok(Dataplane {
            from_pod: obj_get(&programs.join(program::FROM_POD))?,
            to_pod: obj_get(&programs.join(program::TO_POD))?,
            local_pods: open_local_pods(root)?,
        })
    }
}

/// Opens the map of this node's pods alone.
///
/// # Errors
/// If it is missing or of the wrong shape.
pub fn open_local_pods(root: &Path) -> Result<Map<Addr, LocalPod>, BpfError> {
    Map::open_pinned(root.join("maps").join(map::LOCAL_PODS))
}
