//! Everything that can trigger work, in one closed enum.
//!
//! Sources, watchers, the clock and the API send events through one channel to the loop, which
//! applies them to [`crate::state::State`]. This module depends on the objects of
//! `sluice-core` and the calls of the API, and on no other part of the agent; none of these depends on it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use sluice_abi::DropEvent;
use sluice_core::Change;

use crate::api::Call;

/// A trigger of work.
#[derive(Debug)]
pub enum Event {
    /// API objects were added, changed or deleted.
    Objects(Change),
    /// Devices, addresses or routes of the node changed.
    HostNetwork,
    /// The node's half of some pods' paths may have changed.
    PodNetwork(PodScope),
    /// The IPv4 settings of the node changed.
    Forwarding,
    /// The CNI binary changed its leases.
    Leases,
    /// The installed CNI files changed.
    CniFiles,
    /// The periodic check of all concerns is due; it covers lost notifications and changes by
    /// other programs.
    Resync,
    /// The frequent check of what the kernel does not notify is due: pins, programs on cgroups and by
    /// tcx.
    Poll,
    /// Packets were dropped; a sample.
    Drops(Vec<DroppedPacket>),
    /// A client of the API waits for a page of its response.
    Call(Call),
    /// SIGTERM or SIGINT. Programs, maps, routes and files stay in place.
    Stop,
}

/// A packet that the programs have dropped.
#[derive(Clone, Copy, Debug)]
pub struct DroppedPacket {
    /// When.
    pub at: SystemTime,
    /// What the program reports.
    pub event: DropEvent,
}

/// The pods that a change may concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodScope {
    /// All pods.
    pub all: bool,
    /// Indices of devices that have the name of a pod's device.
    pub pods: BTreeSet<u32>,
    /// Indices of devices of any kind.
    pub devices: BTreeSet<u32>,
    /// Addresses of any kind.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Those to which CNI ADD had created a route.
    pub routed: BTreeSet<Ipv4Addr>,
}

impl PodScope {
    /// All pods.
    pub fn all() -> PodScope {
        PodScope { all: true, ..PodScope::default() }
    }

    /// Whether no pod is concerned.
    pub fn is_empty(&self) -> bool {
        *self == PodScope::default()
    }

    /// Adds the pods of another scope.
    pub fn merge(&mut self, other: PodScope) {
        self.all |= other.all;
        self.pods.extend(other.pods);
        self.devices.extend(other.devices);
        self.addresses.extend(other.addresses);
        self.routed.extend(other.routed);
    }
}
