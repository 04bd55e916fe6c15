//! The ring buffer of dropped packets. Its only reader is the agent.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapError, MapInfo, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice_abi::{DropEvent, map, pin};
use zerocopy::FromBytes;

use crate::kernel::DropEvents;

/// The pinned ring buffer.
pub struct Events {
    ring: RingBuf<MapData>,
    id: u32,
}

fn path() -> PathBuf {
    Path::new(pin::MAPS).join(map::EVENTS)
}

impl Events {
    /// Opens the pin.
    ///
    /// # Errors
    /// The programs were never loaded.
    pub fn open() -> Result<Events, MapError> {
        let id = MapInfo::from_pin(path())?.id();
        let ring = RingBuf::try_from(Map::RingBuf(MapData::from_pin(path())?))?;
        Ok(Events { ring, id })
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
}
