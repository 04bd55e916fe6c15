//! The choice of an address: no clock, no file, no kernel.
//!
//! An address is reserved, leased, released or unused. An unused address is taken first, in order
//! from the cursor; after that the one released longest ago, and never before
//! [`REUSE_DELAY_SECONDS`] have passed: a client that still uses the address of a deleted pod must
//! not reach another pod.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{BootInstant, State, Subnet};

/// Time for which a released address stays unused: longer than clients need to notice (CoreDNS
/// caches for 5 s, endpoint changes arrive within a second), shorter than a pod waits for a retry.
pub const REUSE_DELAY_SECONDS: u64 = 10;

/// A range without an address to allocate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Every address is leased.
    #[error("all {capacity} pod addresses of {subnet} are in use")]
    Exhausted {
        /// Number of addresses for pods.
        capacity: usize,
        /// The node's range.
        subnet: Subnet,
    },
    /// Every address that is not leased was released too recently.
    #[error(
        "every free pod address of {subnet} was in use less than {REUSE_DELAY_SECONDS} s ago; \
         the next is free in {seconds} s"
    )]
    ReuseDelay {
        /// The node's range.
        subnet: Subnet,
        /// Time until the first address may be used.
        seconds: u64,
    },
}

impl State {
    /// Chooses an address of `subnet`; the caller adds the lease. A new range starts from its first
    /// address.
    ///
    /// # Errors
    /// All addresses are leased, or all others were released too recently.
    pub fn choose(&mut self, subnet: Subnet, now: &BootInstant) -> Result<Ipv4Addr, AllocError> {
        if self.subnet != Some(subnet) {
            self.subnet = Some(subnet);
            self.cursor = None;
            self.released.retain(|r| subnet.contains(r.address));
        }
        let leased: BTreeSet<Ipv4Addr> = self.leases.iter().map(|l| l.address).collect();
        let released: BTreeSet<Ipv4Addr> = self.released.iter().map(|r| r.address).collect();
        let (first, last) = (u32::from(subnet.first()), u32::from(subnet.last()));
        let start = match self.cursor {
            Some(cursor) if subnet.is_for_pods(cursor) && cursor < subnet.last() => {
                u32::from(cursor) + 1
            }
            _ => first,
        };
        let unused = (start..=last)
            .chain(first..start)
            .map(Ipv4Addr::from)
            .find(|addr| !leased.contains(addr) && !released.contains(addr));
        if let Some(address) = unused {
            self.cursor = Some(address);
            return Ok(address);
        }
        // The list is in the order of release.
        let oldest = self
            .released
            .iter()
            .position(|r| subnet.is_for_pods(r.address) && !leased.contains(&r.address))
            .ok_or(AllocError::Exhausted { capacity: subnet.capacity(), subnet })?;
        if let Some(age) =
            self.released[oldest].at.age(now).filter(|age| *age < REUSE_DELAY_SECONDS)
        {
            return Err(AllocError::ReuseDelay { subnet, seconds: REUSE_DELAY_SECONDS - age });
        }
        let address = self.released.remove(oldest).address;
        self.cursor = Some(address);
        Ok(address)
    }
}
