//! The pinned programs and the map that a pod's network uses. They are found by path, so ADD works
//! while the agent restarts.

use std::os::fd::OwnedFd;
use std::path::Path;

use sluice_abi::{Addr, LocalPod, map, program};
use sluice_bpf::attach::Direction;
use sluice_bpf::{BpfError, Map, obj_get};

/// The pins that a pod's network uses.
#[derive(Debug)]
pub struct Dataplane {
    /// Program for packets from the pod.
    pub from_pod: OwnedFd,
    /// Program for packets from the node's stack to the pod.
    pub to_pod: OwnedFd,
    /// The pods of this node.
    pub local_pods: Map<Addr, LocalPod>,
}

impl Dataplane {
    /// Opens the pins below `root` (`maps/`, `programs/`).
    ///
    /// # Errors
    /// A pin does not exist, or the map's keys or values have another size.
    pub fn open(root: &Path) -> Result<Dataplane, BpfError> {
        let programs = root.join("programs");
        Ok(Dataplane {
            from_pod: obj_get(&programs.join(program::FROM_POD))?,
            to_pod: obj_get(&programs.join(program::TO_POD))?,
            local_pods: open_local_pods(root)?,
        })
    }

    /// The programs on the host end of a pod's veth pair.
    pub(crate) fn hooks(&self) -> [(Direction, &OwnedFd); 2] {
        [(Direction::Ingress, &self.from_pod), (Direction::Egress, &self.to_pod)]
    }
}

/// Opens the map of this node's pods alone.
///
/// # Errors
/// The pin does not exist, or its keys or values have another size.
pub(crate) fn open_local_pods(root: &Path) -> Result<Map<Addr, LocalPod>, BpfError> {
    Map::open_pinned(root.join("maps").join(map::LOCAL_PODS))
}
