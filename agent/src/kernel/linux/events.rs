//! The ring buffer of dropped packets. Its only reader is the agent.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapError, MapInfo, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice_abi::{DropEvent, map, pin};
use zerocopy::FromBytes;

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

    /// Whether the pin is still this ring buffer: programs that replace others have their own.
    pub fn is_current(&self) -> bool {
        MapInfo::from_pin(path()).is_ok_and(|info| info.id() == self.id)
    }

    /// The next event, if there is one. Those of programs with another layout are skipped.
    pub fn next(&mut self) -> Option<DropEvent> {
        while let Some(record) = self.ring.next() {
            if let Ok(event) = DropEvent::read_from_bytes(&record) {
                return Some(event);
            }
        }
        None
    }

    /// Waits for events.
    ///
    /// # Errors
    /// The wait failed.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout)?;
        Ok(())
    }
}
