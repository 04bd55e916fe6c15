//! The pinned programs and the map that a pod's network uses. They are found by path, so ADD works
//! while the agent restarts.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sluice_abi::{Addr, LocalPod, PodNetns, map, program};
use sluice_bpf::attach::Direction;
use sluice_bpf::{BpfError, Map, obj_get};

/// The pins that a pod's network uses.
#[derive(Debug)]
pub struct Dataplane {
    /// Program for packets from the pod.
    pub from_pod: OwnedFd,
    /// Program for packets from the node's stack to the pod.
    pub to_pod: OwnedFd,
    /// The rows of the pods of this node.
    pub pods: PodRows,
    /// Folder of the pins.
    pub pins: PathBuf,
}

/// The maps with the rows of this node's pods: by address and by index.
#[derive(Debug)]
pub struct PodRows {
    by_address: Map<Addr, LocalPod>,
    by_index: Map<u32, LocalPod>,
    /// `None` for programs of a version without this map.
    by_netns: Option<Map<u64, PodNetns>>,
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
            pods: PodRows::open(root)?,
            pins: root.to_owned(),
        })
    }

    /// The programs on the host end of a pod's veth pair.
    pub(crate) fn hooks(&self) -> [(Direction, &OwnedFd); 2] {
        [(Direction::Ingress, &self.from_pod), (Direction::Egress, &self.to_pod)]
    }
}

impl PodRows {
    /// Opens the pins below `root`.
    ///
    /// # Errors
    /// A pin does not exist, or its keys or values have another size.
    pub fn open(root: &Path) -> Result<PodRows, BpfError> {
        let maps = root.join("maps");
        Ok(PodRows {
            by_address: Map::open_pinned(maps.join(map::LOCAL_PODS))?,
            by_index: Map::open_pinned(maps.join(map::PODS))?,
            by_netns: Map::open_pinned(maps.join(map::POD_NETNS)).ok(),
        })
    }

    /// The row of an address, if both maps have it.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn get(&self, address: Addr) -> Result<Option<LocalPod>, BpfError> {
        let Some(row) = self.by_address.lookup(&address)? else { return Ok(None) };
        let by_index = self.by_index.lookup(&u32::from(row.index))?;
        Ok(by_index.filter(|other| *other == row))
    }

    /// Writes the row of an address: by index first, because the first packet of a flow finds a pod
    /// by its address, and later ones by the index.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn put(&self, address: Addr, row: &LocalPod) -> Result<(), BpfError> {
        self.by_index.update(&u32::from(row.index), row)?;
        self.by_address.update(&address, row)
    }

    /// Writes the row by which socket programs recognise a pod. Without it, the packets of its sockets
    /// are translated where the client's address matters.
    pub fn put_netns(&self, cookie: Option<u64>, address: Addr) {
        if let (Some(map), Some(cookie)) = (&self.by_netns, cookie) {
            let _ = map.update(&cookie, &PodNetns { addrs: [address, Addr::UNSPECIFIED] });
        }
    }

    /// Removes the row of a network namespace from `POD_NETNS`; without its cookie, those of the address,
    /// for which all rows are read.
    pub fn remove_netns(&self, cookie: Option<u64>, address: Addr) {
        let Some(map) = &self.by_netns else { return };
        if let Some(cookie) = cookie {
            let _ = map.delete(&cookie);
            return;
        }
        let rows = map.entries().unwrap_or_default();
        for (cookie, _) in rows.iter().filter(|(_, pod)| pod.addrs.contains(&address)) {
            let _ = map.delete(cookie);
        }
    }

    /// Removes the row of an address. A row of another pod with the same index stays.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn remove(&self, address: Addr) -> Result<(), BpfError> {
        let Some(row) = self.by_address.lookup(&address)? else { return Ok(()) };
        self.by_address.delete(&address)?;
        let index = u32::from(row.index);
        if self.by_index.lookup(&index)? == Some(row) {
            self.by_index.update(&index, &LocalPod::default())?;
        }
        Ok(())
    }
}
