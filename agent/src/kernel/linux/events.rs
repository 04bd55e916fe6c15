//! The ring buffers of dropped packets. Their only reader is the agent.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapError, MapInfo, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice_abi::{DropEvent, map, pin};
use zerocopy::FromBytes;

use super::migration::version_dirs;
use super::pins;
use crate::kernel::DropEvents;

/// The pinned ring buffer of this version, and those of others.
pub struct Events {
    ring: RingBuf<MapData>,
    id: u32,
    /// By the kernel id of the map. Kept open, so that the last events are counted after the pin is removed.
    others: BTreeMap<u32, RingBuf<MapData>>,
}

fn path() -> PathBuf {
    Path::new(pin::MAPS).join(map::EVENTS)
}

fn open(path: &Path) -> Result<RingBuf<MapData>, MapError> {
    RingBuf::try_from(Map::RingBuf(MapData::from_pin(path)?))
}

impl Events {
    /// Opens the pin.
    ///
    /// # Errors
    /// The programs were never loaded.
    pub fn open() -> Result<Events, MapError> {
        let id = MapInfo::from_pin(path())?.id();
        Ok(Events { ring: open(&path())?, id, others: BTreeMap::new() })
    }

    /// Opens the ring buffers of other versions. Returns the ids of those that are pinned.
    fn open_others(&mut self) -> Vec<u32> {
        let mut pinned = Vec::new();
        for dir in version_dirs(pins::base()).unwrap_or_default() {
            let path = dir.join("maps").join(map::EVENTS);
            // Pins of this version that were set aside when a map grew have the same ring buffer.
            let Some(id) = MapInfo::from_pin(&path).ok().map(|info| info.id()) else { continue };
            if id == self.id {
                continue;
            }
            pinned.push(id);
            if !self.others.contains_key(&id)
                && let Ok(ring) = open(&path)
            {
                self.others.insert(id, ring);
            }
        }
        pinned
    }
}

impl DropEvents for Events {
    fn is_current(&self) -> bool {
        MapInfo::from_pin(path()).is_ok_and(|info| info.id() == self.id)
    }

    fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout)?;
        Ok(())
    }

    fn next(&mut self) -> Option<DropEvent> {
        while let Some(record) = self.ring.next() {
            if let Ok(event) = DropEvent::read_from_bytes(&record) {
                return Some(event);
            }
        }
        None
    }

    fn skip_others(&mut self) -> u64 {
        let pinned = self.open_others();
        let mut skipped = 0;
        for ring in self.others.values_mut() {
            while ring.next().is_some() {
                skipped += 1;
            }
        }
        self.others.retain(|id, _| pinned.contains(id));
        skipped
    }
}
