//! Everything the agent reads from and changes on its node, behind traits.
//!
//! ```text
//! reconcile/*  -->  dyn Kernel  <--  linux::LinuxKernel   bpf(2), netlink, files
//!                               <--  fake::FakeKernel     in memory, with injected failures
//! ```
//! A method performs one operation on one object and keeps no desired state. Repeating an operation
//! is always safe: what is already as requested is left alone.

mod counters;
mod drop_events;
mod error;
#[cfg(test)]
pub mod fake;
mod flow_tables;
mod health_checks;
pub mod linux;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::time::Duration;

pub use counters::read as read_counters;
pub use drop_events::DropEvents;
pub use error::KernelError;
pub use flow_tables::{FlowMaps, FlowTables, MapFill};
pub use health_checks::{HealthCheck, HealthChecks};
use ipnet::IpNet;
use sluice_abi::UdpSocket;
use sluice_bpf::attach::{XdpAttachment, XdpMode};
use sluice_core::diff::Capacity;
use sluice_core::{Rows, TableSpec, Write};
use sluice_pod::device::{Link, LinkLayer};
use sluice_pod::lease::{BootInstant, Lease};
use sluice_pod::{HostPath, Kept, PathPart, Reclaimed};

use crate::counters::Count;
use crate::host::HostState;

/// Result of an operation.
pub type Result<T> = std::result::Result<T, KernelError>;

/// The pinned maps.
pub trait Maps {
    /// Every row of a map.
    fn read(&mut self, table: &'static TableSpec) -> Result<Rows>;

    /// Up to `limit` rows after the one with key `after` (`None`: the first ones), in the order of
    /// the map; none after the last one.
    fn read_after(
        &mut self,
        table: &'static TableSpec,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows>;

    /// The rows of the given keys (packed); absent keys are left out.
    fn read_keys(&mut self, table: &'static TableSpec, keys: &[u8]) -> Result<Rows>;

    /// Writes one batch, row by row in its order. After a failure, the rows before the failed one
    /// are written.
    fn write(&mut self, write: &Write) -> Result<()>;

    /// Packets and bytes by drop reason and outcome.
    fn counters(&mut self) -> Result<Vec<Count>>;
}

/// Next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// The node with this address.
    Via(IpAddr),
    /// None: packets are answered with "host unreachable".
    Unreachable,
}

/// Routes by destination.
pub type Routes = BTreeMap<IpNet, Hop>;

/// The node's network.
pub trait Network {
    /// Devices, addresses, default route and ephemeral ports.
    fn host_state(&mut self) -> Result<HostState>;

    /// A random key, not zero.
    fn random_key(&mut self) -> Result<[u64; 2]>;

    /// Every device.
    fn links(&mut self) -> Result<Vec<Link>>;

    /// The routes of the main table that the agent owns: those with
    /// [`sluice_pod::ROUTE_PROTOCOL`] that do not lead to a single pod. An interrupted dump
    /// is an error, never a shorter list.
    fn routes(&mut self) -> Result<Routes>;

    /// Adds a route, or replaces the one to the same destination and of the same kind.
    fn put_route(&mut self, dst: &IpNet, hop: &Hop) -> Result<()>;

    /// Deletes a route; an absent one is not an error.
    fn delete_route(&mut self, dst: &IpNet, hop: &Hop) -> Result<()>;

    /// Enables IPv4 forwarding for the node and on a device. Returns whether anything changed.
    fn enable_forwarding(&mut self, device: &str) -> Result<bool>;
}

/// Result of [`Hooks::attach_pod`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodPrograms {
    /// Whether a program was attached or replaced.
    pub changed: bool,
    /// Whether they are attached by tcx, of whose changes the kernel does not notify.
    pub by_tcx: bool,
}

/// Entries of one version's maps that were copied to another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries that were written.
    pub written: usize,
    /// Entries that do not fit into the target: its fields are smaller, or it is full.
    pub left_out: usize,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, other: Copied) {
        self.written += other.written;
        self.left_out += other.left_out;
    }
}

/// Result of [`Hooks::hand_over`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The version that was active; `None` if the switch was made by an earlier agent.
    pub from: Option<String>,
    /// Flow entries that were copied. Shared maps need no copy.
    pub flows: Copied,
    /// Time from the switch to the end of copying.
    pub took: Duration,
}

/// Result of [`Hooks::grow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The capacities of the maps.
    pub capacity: Capacity,
    /// Whether former programs go on with the former maps until [`Hooks::hand_over`].
    pub takes_over: bool,
}

/// Attachment of the pinned programs, and their pins.
pub trait Hooks {
    /// Attaches the programs of uplinks to a device. Returns whether anything changed.
    fn attach_uplink(&mut self, ifindex: u32, layer: LinkLayer) -> Result<bool>;

    /// Detaches the programs of uplinks from a device, which may no longer exist.
    fn detach_uplink(&mut self, ifindex: u32) -> Result<()>;

    /// Attaches the XDP program to a device.
    fn attach_xdp(&mut self, ifindex: u32, mode: XdpMode) -> Result<XdpAttachment>;

    /// Detaches the XDP program from a device, which may no longer exist. Returns whether it had it.
    fn detach_xdp(&mut self, ifindex: u32) -> Result<bool>;

    /// Attaches the pod programs to the host end of a veth pair.
    fn attach_pod(&mut self, ifindex: u32) -> Result<PodPrograms>;

    /// Attaches the socket programs to the cgroup root. Returns the number of changed hooks.
    fn attach_sockets(&mut self) -> Result<usize>;

    /// Makes all hooks run this version's programs, and takes the flows of another version over.
    fn hand_over(&mut self) -> Result<HandedOver>;

    /// Replaces the maps that grow by larger ones, and loads programs that use them. The former
    /// programs go on until [`Hooks::hand_over`]; after a failure they go on as if nothing was done.
    fn grow(&mut self, least: &Capacity) -> Result<Grown>;

    /// Restores the pins of the maps and programs that were pinned at start. Returns their number.
    fn restore_pins(&mut self) -> Result<usize>;

    /// Names of the other versions that have pins.
    fn stale_pins(&mut self) -> Result<Vec<String>>;

    /// Removes the pins of other versions; returns their names.
    fn remove_stale_pins(&mut self) -> Result<Vec<String>>;
}

/// Connected UDP sockets that were translated, by their cookies.
pub type UdpSockets = BTreeMap<u64, UdpSocket>;

/// Result of [`Pods::close_udp_sockets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedSockets {
    /// Sockets that were closed.
    pub sockets: usize,
    /// Sockets that the kernel cannot close: it lacks `CONFIG_INET_DIAG_DESTROY`.
    pub unsupported: usize,
    /// Other failures. Each names the network namespace and the Service address.
    pub failures: Vec<String>,
}

impl ClosedSockets {
    /// Nothing was closed.
    pub fn failed(failure: String) -> ClosedSockets {
        ClosedSockets { failures: vec![failure], ..ClosedSockets::default() }
    }
}

/// The lock of the leases, while this value exists. Rows that lead to a pod are written and deleted under
/// it: the CNI binary does, and without it a row could be that of an earlier or a later pod.
#[derive(Debug)]
pub struct LeaseLock {
    _held: Box<dyn Debug>,
}

impl LeaseLock {
    /// The lock that `held` keeps.
    pub fn new(held: impl Debug + 'static) -> LeaseLock {
        LeaseLock { _held: Box::new(held) }
    }
}

/// All leases, which no other process changes while this value exists.
#[derive(Debug)]
pub struct LockedLeases {
    /// The leases.
    pub leases: Vec<Lease>,
    _lock: LeaseLock,
}

/// The pods of this node and their leases.
pub trait Pods {
    /// All leases of the CNI binary. Those that are damaged are rebuilt or ended first; if that fails, they
    /// are left out, and tried again by [`Pods::mend_leases`] only.
    fn leases(&mut self) -> Result<Vec<Lease>>;

    /// Locks the leases; fails if another process holds the lock for longer than the agent can wait.
    fn lock_leases(&mut self) -> Result<LockedLeases>;

    /// As [`Pods::lock_leases`], but reads one lease only: `None` if it has ended or changed.
    fn lock_lease(&mut self, lease: &Lease) -> Result<Option<LeaseLock>>;

    /// Tries to rebuild or to end all damaged leases; returns those that stay.
    fn mend_leases(&mut self) -> Result<Vec<Kept>>;

    /// Releases leases that still read as given and are not live, which is judged again under the lock;
    /// before, deletes the rows that lead to their pods.
    fn release_leases(&mut self, leases: &[Lease]) -> Result<Reclaimed>;

    /// Whether the network namespace of a pod may exist: the agent does not see all of them.
    fn netns_may_exist(&mut self, lease: &Lease) -> bool;

    /// Whether the agent sees the network namespace of a pod.
    fn netns_exists(&mut self, lease: &Lease) -> bool;

    /// The present time on the clock of the leases.
    fn boot_instant(&mut self) -> Result<BootInstant>;

    /// What the node has of the paths of these pods, by a dump of each kind; `None` for a pod
    /// without a device.
    fn host_paths(&mut self, leases: &[&Lease]) -> Result<Vec<Option<HostPath>>>;

    /// What the node has of one pod's path.
    fn host_path(&mut self, lease: &Lease) -> Result<Option<HostPath>>;

    /// Restores a part of a pod's path; `link` is the host end.
    fn restore_path(&mut self, lease: &Lease, link: &Link, part: PathPart) -> Result<()>;

    /// Former MTUs of the uplink that running pods may have, as stored.
    fn old_mtus(&mut self) -> Result<BTreeSet<u32>>;

    /// Stores former MTUs for an agent that starts during this boot.
    fn store_old_mtus(&mut self, mtus: &BTreeSet<u32>) -> Result<()>;

    /// Sets the MTU of both ends of a pod's veth pair. Returns false if the pod's network namespace
    /// does not exist or is unknown.
    fn set_pod_mtu(&mut self, lease: &Lease, mtu: u32) -> Result<bool>;

    /// Starts to close these sockets, in the node's network namespace and in those of `pods`, as far as they are
    /// still connected to their backends. [`Pods::closed_udp_sockets`] has returned the result of the last start.
    fn close_udp_sockets(&mut self, sockets: &UdpSockets, pods: &[Lease]) -> Result<()>;

    /// The result of the last start, once; `None` while it runs.
    fn closed_udp_sockets(&mut self) -> Option<ClosedSockets>;
}

/// The files that make the container runtime use Sluice.
pub trait CniFiles {
    /// Installs the CNI binary if it differs. Returns whether it did.
    fn install_cni_binary(&mut self) -> Result<bool>;

    /// Writes the CNI configuration if it differs. Returns whether it did.
    fn write_cni_config(&mut self, text: &str) -> Result<bool>;

    /// Problems with other network software: a CNI configuration that the runtime uses instead of
    /// this one, rules of kube-proxy.
    fn other_networks(&mut self) -> Vec<String>;
}

/// All operations of the agent on its node.
pub trait Kernel: Maps + Network + Hooks + Pods + CniFiles + HealthChecks {}

impl<T: Maps + Network + Hooks + Pods + CniFiles + HealthChecks> Kernel for T {}
