//! The events of dropped packets, which the agent reads on a thread of its own.

use std::io;
use std::time::Duration;

use sluice_abi::DropEvent;

/// The queue into which the programs write.
pub trait DropEvents {
    /// Whether the programs still write into this queue: those that replace others have their own.
    fn is_current(&self) -> bool;

    /// Waits for events.
    ///
    /// # Errors
    /// The wait failed.
    fn wait(&self, timeout: Duration) -> io::Result<()>;

    /// The next event, if there is one. Those of programs with another layout are skipped.
    fn next(&mut self) -> Option<DropEvent>;

    /// Removes the events of programs of other versions, which write into queues of their own until the hooks
    /// are switched, and returns their number. They cannot be read: their layout may be another one.
    fn skip_others(&mut self) -> u64;
}
