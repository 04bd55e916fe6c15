//! The choice of an address: no clock, no file, no kernel.
//!
//! An address is reserved, leased, resting or free. A free address that nobody has had since the
//! state began is taken first, in order from the cursor; when the round is full, the one that has
//! rested longest. So an address comes back as late as the range allows, and never before
//! [`REUSE_DELAY_SECONDS`]: a client that still talks to a pod that is gone must not meet a stranger.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::BootInstant;
use super::store::{Lease, LeaseKey};

/// How long a freed address stays unused: longer than clients take to notice (DNS caches of
/// CoreDNS live 5 s, endpoint changes arrive within a second), shorter than anyone waits.
pub const REUSE_DELAY_SECONDS: u64 = 10;

/// A node's IPv4 pod range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

/// Why a text is not a range that pods can live in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 network such as 10.244.1.0/24")]
    Unreadable(String),
    /// Bits right of the prefix.
    #[error("{0} has host bits set; the network is {1}")]
    HostBits(String, Subnet),
    /// Too small for one pod, or absurdly large.
    #[error("{0}: the prefix length must be between 8 and 30")]
    Prefix(String),
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Subnet, SubnetError> {
        let unreadable = || SubnetError::Unreadable(text.to_owned());
        let (addr, prefix) = text.split_once('/').ok_or_else(unreadable)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| unreadable())?;
        let prefix: u8 = prefix.parse().map_err(|_| unreadable())?;
        if !(8..=30).contains(&prefix) {
            return Err(SubnetError::Prefix(text.to_owned()));
        }
        let network = u32::from(addr) & (u32::MAX << (32 - prefix));
        let subnet = Subnet { network, prefix };
        if network != u32::from(addr) {
            return Err(SubnetError::HostBits(text.to_owned(), subnet));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Subnet, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl Subnet {
    fn broadcast(self) -> u32 {
        self.network | !(u32::MAX << (32 - self.prefix))
    }

    /// Whether `addr` lies in the range, reserved or not.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        (self.network..=self.broadcast()).contains(&u32::from(addr))
    }

    /// First address that a pod may have: the network itself and `.1`, which is the node's, are
    /// not for pods.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 2)
    }

    /// Last address that a pod may have: the one before the broadcast address.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(self.broadcast() - 1)
    }

    /// How many pods fit.
    pub fn capacity(self) -> usize {
        (u32::from(self.last()) - u32::from(self.first()) + 1) as usize
    }

    fn holds(self, addr: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&addr)
    }
}

/// An address that a pod gave back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The address.
    pub address: Ipv4Addr,
    /// When.
    pub at: BootInstant,
}

/// Why there is no address to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Every address is leased.
    #[error("all {capacity} pod addresses of {subnet} are in use")]
    Exhausted {
        /// Addresses that pods may have.
        capacity: usize,
        /// The node's range.
        subnet: Subnet,
    },
    /// Some are free, but each was in use a moment ago.
    #[error(
        "every free pod address of {subnet} was in use less than {REUSE_DELAY_SECONDS} s ago; \
         the next is free in {seconds} s"
    )]
    Resting {
        /// The node's range.
        subnet: Subnet,
        /// Until the first one may be used.
        seconds: u64,
    },
}

/// Everything that is remembered between two calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The range that addresses were last taken from.
    pub subnet: Option<Subnet>,
    /// The address that was taken last.
    pub cursor: Option<Ipv4Addr>,
    /// Addresses in use. Those of an earlier range stay until their pods go.
    pub leases: Vec<Lease>,
    /// Addresses that were in use, the longest-rested first.
    pub released: Vec<Released>,
}

impl State {
    /// Chooses an address of `subnet`; the caller adds the lease.
    ///
    /// # Errors
    /// If none is to be had, and why.
    pub fn choose(&mut self, subnet: Subnet, now: &BootInstant) -> Result<Ipv4Addr, AllocError> {
        if self.subnet != Some(subnet) {
            self.subnet = Some(subnet);
            self.cursor = None;
            self.released.retain(|r| subnet.contains(r.address));
        }
        let leased: BTreeSet<Ipv4Addr> = self.leases.iter().map(|l| l.address).collect();
        let used: BTreeSet<Ipv4Addr> = self.released.iter().map(|r| r.address).collect();
        let (first, last) = (u32::from(subnet.first()), u32::from(subnet.last()));
        let start = match self.cursor {
            Some(cursor) if subnet.holds(cursor) && cursor < subnet.last() => u32::from(cursor) + 1,
            _ => first,
        };
        let fresh = (start..=last)
            .chain(first..start)
            .map(Ipv4Addr::from)
            .find(|addr| !leased.contains(addr) && !used.contains(addr));
        if let Some(address) = fresh {
            self.cursor = Some(address);
            return Ok(address);
        }
        // Everyone has been used: the oldest release comes first in the list.
        let oldest = self
            .released
            .iter()
            .position(|r| subnet.holds(r.address) && !leased.contains(&r.address))
            .ok_or(AllocError::Exhausted { capacity: subnet.capacity(), subnet })?;
        if let Some(age) =
            self.released[oldest].at.age(now).filter(|age| *age < REUSE_DELAY_SECONDS)
        {
            return Err(AllocError::Resting { subnet, seconds: REUSE_DELAY_SECONDS - age });
        }
        let address = self.released.remove(oldest).address;
        self.cursor = Some(address);
        Ok(address)
    }

    /// The lease of an attachment.
    pub fn find(&self, key: &LeaseKey) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.key == *key)
    }

    /// Takes an attachment's lease away and lets its address rest.
    pub fn release(&mut self, key: &LeaseKey, now: &BootInstant) -> Option<Lease> {
        let at = self.leases.iter().position(|lease| lease.key == *key)?;
        let lease = self.leases.remove(at);
        self.released.retain(|r| r.address != lease.address);
        self.released.push(Released { address: lease.address, at: now.clone() });
        Some(lease)
    }

    /// Releases every lease that `live` says no to; returns them.
    pub fn reclaim(&mut self, now: &BootInstant, live: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let dead: Vec<LeaseKey> =
            self.leases.iter().filter(|l| !live(l)).map(|l| l.key.clone()).collect();
        dead.iter().filter_map(|key| self.release(key, now)).collect()
    }
}

#[cfg(test)]
#[path = "alloc_tests.rs"]
mod tests;
