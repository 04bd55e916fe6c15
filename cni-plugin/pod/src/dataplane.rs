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
    /// A pin does not exist or cannot be opened, or its keys or values have another size.
    pub fn open(root: &Path) -> Result<PodRows, BpfError> {
        let maps = root.join("maps");
        Ok(PodRows {
            by_address: Map::open_pinned(maps.join(map::LOCAL_PODS))?,
            by_index: Map::open_pinned(maps.join(map::PODS))?,
            by_netns: unless_absent(Map::open_pinned(maps.join(map::POD_NETNS)))?,
        })
    }

    /// As [`PodRows::open`]; `None` if a pin does not exist: no dataplane is loaded.
    ///
    /// # Errors
    /// A pin exists and cannot be opened, or its keys or values have another size.
    pub fn open_if_pinned(root: &Path) -> Result<Option<PodRows>, BpfError> {
        unless_absent(PodRows::open(root))
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

    /// Removes the row of an address in a network namespace from `POD_NETNS`; without the cookie of the
    /// namespace, all rows are read.
    pub fn remove_netns(&self, cookie: Option<u64>, address: Addr) {
        let Some(map) = &self.by_netns else { return };
        let rows = match cookie {
            Some(cookie) => {
                map.lookup(&cookie).ok().flatten().map(|row| (cookie, row)).into_iter().collect()
            }
            None => map.entries().unwrap_or_default(),
        };
        for (cookie, _) in rows.iter().filter(|(_, pod)| pod.addrs.contains(&address)) {
            let _ = map.delete(cookie);
        }
    }

    /// Removes the rows of the pod that has this address and index: the row of the address, and that of
    /// the index also if the address has none. A row of another pod with the same index stays.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn remove(&self, address: Addr, number: RowNumber) -> Result<(), BpfError> {
        let row = self.by_address.lookup(&address)?;
        if row.is_some() {
            self.by_address.delete(&address)?;
        }
        for index in number.ended(row, |index| self.by_index.lookup(&index))? {
            self.by_index.update(&index, &LocalPod::default())?;
        }
        Ok(())
    }

    /// Removes the rows with this number. Those of another pod that has the address stay.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn remove_numbered(&self, address: Addr, number: RowNumber) -> Result<(), BpfError> {
        if self.by_address.lookup(&address)?.is_some_and(|row| number.is_of(&row)) {
            self.by_address.delete(&address)?;
        }
        if self.by_index.lookup(&number.index)?.is_some_and(|row| number.is_of(&row)) {
            self.by_index.update(&number.index, &LocalPod::default())?;
        }
        Ok(())
    }
}

/// `None` if nothing is pinned at the path. A pin that cannot be opened may have rows.
pub(crate) fn unless_absent<T>(opened: Result<T, BpfError>) -> Result<Option<T>, BpfError> {
    match opened {
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        other => other.map(Some),
    }
}

/// Index and generation of a pod's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowNumber {
    /// [`Lease::index`](crate::lease::Lease::index).
    pub index: u32,
    /// [`Lease::row_generation`](crate::lease::Lease::row_generation); `None` if it is not known: every
    /// row of the index, which no other lease has.
    pub generation: Option<u16>,
}

impl RowNumber {
    /// The indices of the rows in `PODS` that end with the pod whose row by address is `row`: that with
    /// this number, and that equal to `row`, which a former version can have written with another
    /// index.
    fn ended<E>(
        self,
        row: Option<LocalPod>,
        by_index: impl Fn(u32) -> Result<Option<LocalPod>, E>,
    ) -> Result<Vec<u32>, E> {
        let other = row.map(|row| u32::from(row.index)).filter(|index| *index != self.index);
        let mut ended = Vec::new();
        for index in other.into_iter().chain([self.index]) {
            if by_index(index)?.is_some_and(|found| Some(found) == row || self.is_of(&found)) {
                ended.push(index);
            }
        }
        Ok(ended)
    }

    /// Whether a row has this number. The generation of an empty row is 0.
    fn is_of(self, row: &LocalPod) -> bool {
        row.generation != 0
            && u32::from(row.index) == self.index
            && self.generation.is_none_or(|generation| generation == row.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u16, generation: u16) -> LocalPod {
        LocalPod { index, generation, ifindex: 12, ..LocalPod::default() }
    }

    #[test]
    fn row_of_an_index_ends_also_without_a_row_of_the_address() {
        let number = RowNumber { index: 7, generation: Some(9) };
        let (pod, of_former, other) = (row(7, 9), row(3, 5), row(3, 6));
        for (by_address, by_index, ended) in [
            (Some(pod), vec![pod], vec![7]),
            (None, vec![pod], vec![7]),
            (Some(of_former), vec![of_former, pod], vec![3, 7]),
            // The index has another pod by now.
            (Some(of_former), vec![other, pod], vec![7]),
            (Some(pod), vec![row(7, 8)], vec![]),
            (None, vec![row(7, 8)], vec![]),
            (None, vec![], vec![]),
        ] {
            let row_of = |index: u32| {
                let found = by_index.iter().find(|row| u32::from(row.index) == index);
                Ok::<_, ()>(Some(found.copied().unwrap_or_default()))
            };
            assert_eq!(number.ended(by_address, row_of), Ok(ended), "{by_address:?} {by_index:?}");
        }
    }

    #[test]
    fn row_of_an_index_ends_with_its_generation() {
        let number = RowNumber { index: 7, generation: Some(9) };
        let any = RowNumber { generation: None, ..number };
        for (row, is_of, is_of_any) in [
            (row(7, 9), true, true),
            (row(7, 8), false, true),
            (row(8, 9), false, false),
            (LocalPod::default(), false, false),
        ] {
            assert_eq!((number.is_of(&row), any.is_of(&row)), (is_of, is_of_any), "{row:?}");
        }
        let first = RowNumber { index: 0, generation: None };
        assert!(!first.is_of(&LocalPod::default()), "no pod has the index");
    }
}
