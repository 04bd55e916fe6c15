//! The choice of an address and of an index: no clock, no file, no kernel.
//!
//! An address is reserved, leased, released or unused. An unused address is taken first, in order
//! from the cursor; after that the one released longest ago, and never before
//! [`REUSE_DELAY_SECONDS`] have passed: a client that still uses the address of a deleted pod must
//! not reach another pod.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use sluice_abi::map;

use super::{BootInstant, Subnet};

/// Time for which a released address stays unused: longer than clients need to notice (CoreDNS
/// caches for 5 s, endpoint changes arrive within a second), shorter than a pod waits for a retry.
pub const REUSE_DELAY_SECONDS: u64 = 10;

/// Released addresses whose order is kept after their reuse delay: those of a /24. Older ones count as
/// unused. Each call reads and writes the list under the lock.
const RELEASED_MAX: usize = 256;

/// Number of pods that a node can have, and upper limit of [`Lease::index`](super::Lease::index). The index after
/// the last pod counts the flows without one.
pub const INDEX_MAX: u32 = map::FLOWS_WITHOUT_POD;

/// A node that cannot take another pod.
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
    /// Every index is in use.
    #[error("all {INDEX_MAX} pods that a node can have exist")]
    TooManyPods,
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

/// A released address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The address.
    pub address: Ipv4Addr,
    /// Seconds after the boot of [`Allocation::boot_id`]; `None` if released before that boot.
    pub at: Option<u64>,
}

/// What the next choice of an address depends on, apart from the leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// Range of the last allocation.
    pub subnet: Option<Subnet>,
    /// Address of the last allocation.
    pub cursor: Option<Ipv4Addr>,
    /// Boot to which the times of the releases belong.
    pub boot_id: String,
    /// Released addresses, in the order of their release.
    pub released: Vec<Released>,
}

impl Allocation {
    /// Parses the content of the allocation file.
    ///
    /// # Errors
    /// The bytes are not the JSON of an allocation.
    pub fn from_json(bytes: &[u8]) -> serde_json::Result<Allocation> {
        serde_json::from_slice(bytes)
    }

    /// Chooses an address of `subnet` that is not `leased`; the caller adds the lease. A new range
    /// starts from its first address.
    ///
    /// # Errors
    /// All addresses are leased, or all others were released too recently.
    pub fn choose(
        &mut self,
        subnet: Subnet,
        leased: impl Fn(Ipv4Addr) -> bool,
        now: &BootInstant,
    ) -> Result<Ipv4Addr, AllocError> {
        self.enter_boot(now);
        if self.subnet != Some(subnet) {
            self.subnet = Some(subnet);
            self.cursor = None;
            self.released.retain(|r| subnet.contains(r.address));
        }
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
            .find(|addr| !leased(*addr) && !released.contains(addr));
        if let Some(address) = unused {
            self.cursor = Some(address);
            return Ok(address);
        }
        // The list is in the order of release.
        let oldest = self
            .released
            .iter()
            .position(|r| subnet.is_for_pods(r.address) && !leased(r.address))
            .ok_or(AllocError::Exhausted { capacity: subnet.capacity(), subnet })?;
        let age = self.released[oldest].at.map(|at| now.seconds.saturating_sub(at));
        if let Some(age) = age.filter(|age| *age < REUSE_DELAY_SECONDS) {
            return Err(AllocError::ReuseDelay { subnet, seconds: REUSE_DELAY_SECONDS - age });
        }
        let address = self.released.remove(oldest).address;
        self.cursor = Some(address);
        Ok(address)
    }

    /// Begins the reuse delay of an address whose lease ends.
    pub fn release(&mut self, address: Ipv4Addr, now: &BootInstant) {
        self.enter_boot(now);
        self.released.retain(|r| r.address != address);
        self.released.push(Released { address, at: Some(now.seconds) });
        let surplus = self.released.len().saturating_sub(RELEASED_MAX);
        let waits = |r: &Released| {
            r.at.is_some_and(|at| now.seconds.saturating_sub(at) < REUSE_DELAY_SECONDS)
        };
        let forgotten = self.released.iter().take(surplus).take_while(|r| !waits(r)).count();
        self.released.drain(..forgotten);
    }

    /// A reboot ends every reuse delay: no client of an earlier boot's pod has a connection to it.
    fn enter_boot(&mut self, now: &BootInstant) {
        if self.boot_id != now.boot_id {
            self.boot_id.clone_from(&now.boot_id);
            self.released.iter_mut().for_each(|r| r.at = None);
        }
    }
}

/// The lowest index that is not in `used`.
///
/// # Errors
/// All are used.
pub fn lowest_free_index(used: impl IntoIterator<Item = u32>) -> Result<u32, AllocError> {
    let mut free = [true; INDEX_MAX as usize];
    for index in used {
        if let Some(free) = free.get_mut(index as usize) {
            *free = false;
        }
    }
    let lowest = free.iter().position(|free| *free).ok_or(AllocError::TooManyPods)?;
    Ok(lowest as u32)
}
