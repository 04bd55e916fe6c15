//! What the names of the lease files say is in use: all that an allocation needs to know.
//!
//! ADD reads it under the lock, among thousands of names: it keeps numbers, and neither names nor an order.

use std::net::Ipv4Addr;

use super::entry::Name;
use super::{Entry, Lease};

/// Addresses and indices in use, and the entry of one attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// In ascending order once the list is complete.
    addresses: Vec<u32>,
    indexes: Vec<u32>,
    own: Option<Entry>,
}

impl InUse {
    /// Reads names of files; those that are not leases are left out. `own` is the name of the host's end
    /// of the attachment whose entry is looked for.
    pub(super) fn add_name(&mut self, name: &str, own: &str) {
        let Some(name) = Name::parse(name) else { return };
        self.addresses.push(name.address.into());
        self.indexes.push(name.index);
        if name.host_ifname == own {
            self.own = Some(name.into());
        }
    }

    /// Ends the list.
    pub(super) fn complete(mut self) -> InUse {
        self.addresses.sort_unstable();
        self
    }

    /// Adds a lease that was allocated meanwhile.
    pub fn add(&mut self, lease: &Lease) {
        let address = u32::from(lease.address);
        let at = self.addresses.partition_point(|other| *other < address);
        self.addresses.insert(at, address);
        self.indexes.push(lease.index);
    }

    /// The entry of the attachment.
    pub fn own(&self) -> Option<&Entry> {
        self.own.as_ref()
    }

    /// Whether a lease has this address.
    pub(super) fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.binary_search(&address.into()).is_ok()
    }

    /// The indices, in no order.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.indexes.iter().copied()
    }
}
