//! Services: frontend -> Service port -> range of slots -> backend.
//!
//! ```text
//! FRONTENDS {address, port, protocol} -> {id of the Service port, flags}
//! SERVICES  {id}                      -> {offset, length} of the Cluster and of the Local set
//! SLOTS     [offset + hash % length]  -> backend id
//! BACKENDS  {id}                      -> address, port, Service port
//! ```
//! All frontends of a Service port share its row in `SERVICES`, so that a change of endpoints
//! replaces one row. A change writes new backends, then a new range of slots, then the row of the
//! Service port, then frontends, so that a program never reads a partial table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Family, PortBe};

/// Port of the wildcard entry, which matches every other port of a Service address.
pub const WILDCARD_PORT: PortBe = PortBe::new(0);
/// Protocol of the wildcard entry, which matches every other protocol of a Service address.
pub const WILDCARD_PROTO: u8 = 0;

/// Address in the key of a NodePort: the unspecified address of the family. The key matches every
/// address of this node that serves NodePorts.
#[inline(always)]
pub const fn node_port_addr(family: Family) -> Addr {
    match family {
        Family::V4 => Addr::v4([0; 4]),
        Family::V6 => Addr::UNSPECIFIED,
    }
}

/// Key of `FRONTENDS`: an address, port and protocol that clients connect to.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FrontendKey {
    /// Service address.
    pub addr: Addr,
    /// Service port; [`WILDCARD_PORT`] in the wildcard entry, which prevents packets to unknown
    /// ports of a Service address from being routed.
    pub port: PortBe,
    /// IP protocol number; [`WILDCARD_PROTO`] in the wildcard entry.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// Whether this is the key of a NodePort ([`node_port_addr`]).
    pub fn is_node_port(&self) -> bool {
        self.addr == node_port_addr(self.addr.family())
    }
}

/// Value of `FRONTENDS`: the Service port of a frontend, and how the frontend uses it.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Frontend {
    /// Key of the Service port in `SERVICES`, stable while the port exists, also over agent restarts;
    /// 0 in a wildcard entry.
    pub service: u32,
    /// Bits of [`frontend_flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Frontend>() == 8);

impl Frontend {
    /// Both fields in one number, flags from bit 32; 0 for no frontend.
    #[inline(always)]
    pub const fn to_number(self) -> u64 {
        (self.flags as u64) << 32 | self.service as u64
    }

    /// The frontend of [`Frontend::to_number`].
    #[inline(always)]
    pub const fn from_number(n: u64) -> Option<Frontend> {
        if n == 0 { None } else { Some(Frontend { service: n as u32, flags: (n >> 32) as u32 }) }
    }

    /// Whether a client gets a backend of the Local set. The external traffic policy does not apply
    /// to pods and processes of this node.
    #[inline(always)]
    pub const fn uses_local_set(&self, client_on_this_node: bool) -> bool {
        let exempt = client_on_this_node && self.flags & frontend_flags::EXTERNAL != 0;
        self.flags & frontend_flags::LOCAL != 0 && !exempt
    }

    /// Whether this is the wildcard entry of an external address. A host may have that address, so
    /// that the entry applies to packets from the wire only.
    #[inline(always)]
    pub const fn is_external_wildcard(&self) -> bool {
        const BOTH: u32 = frontend_flags::WILDCARD | frontend_flags::EXTERNAL;
        self.flags & BOTH == BOTH
    }
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// A wildcard entry: packets that match it are rejected.
    pub const WILDCARD: u32 = 1;
    /// A NodePort, an address of a load balancer or an external IP: the external traffic policy
    /// applies. Otherwise a ClusterIP with the internal traffic policy.
    pub const EXTERNAL: u32 = 2;
    /// The traffic policy of the frontend is Local.
    pub const LOCAL: u32 = 4;
    /// An address of a load balancer whose clients are limited to the source ranges of the Service
    /// port.
    pub const SOURCE_RANGES: u32 = 8;
}

/// Key of `HOST_PORTS`: a hostPort with its hostIP; without one, with the unspecified address of the
/// family, which matches every address of this node. The value is the pod's
/// address and port. CNI ADD writes rows, DEL removes them, and the agent repairs them.
pub type HostPortKey = FrontendKey;

/// A range of `SLOTS`: `offset .. offset + len`. A range of length 0 has no position.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SlotRange {
    /// First slot.
    pub offset: u32,
    /// Number of slots.
    pub len: u32,
}

const _: () = assert!(size_of::<SlotRange>() == 8);

/// Value of `SERVICES`: the sets of backends of a Service port in one address family.
///
/// The map is a hash, not an array: the kernel replaces an entry of a hash as a whole, but writes
/// into the entry of an array, where a program could read the offset of one range with the length
/// of another.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ServicePort {
    /// Backends for traffic policy Cluster, after topology hints. Empty: no endpoint is usable on
    /// any node, and clients are rejected.
    pub cluster: SlotRange,
    /// Backends for traffic policy Local. Empty while `cluster` is not: packets are dropped. Filled
    /// only if the policy of a frontend is Local.
    pub local: SlotRange,
    /// Timeout of session affinity in seconds, or 0.
    pub affinity_seconds: u32,
}

const _: () = assert!(size_of::<ServicePort>() == 20);

/// One endpoint of a Service port.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Backend {
    /// Endpoint address.
    pub addr: Addr,
    /// Target port.
    pub port: PortBe,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<Backend>() == 20);

/// Value of `BACKENDS`: a [`Backend`] and its Service port. Two Service ports with the same endpoint
/// have two rows.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct BackendRow {
    /// Endpoint address.
    pub addr: Addr,
    /// Target port.
    pub port: PortBe,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Id of the Service port; 0 if it is not known: the row is from a version without this field.
    pub service: u32,
}

const _: () = assert!(size_of::<BackendRow>() == 24);

impl BackendRow {
    /// The row of a backend.
    pub const fn new(service: u32, backend: Backend) -> BackendRow {
        let Backend { addr, port, proto, pad } = backend;
        BackendRow { addr, port, proto, pad, service }
    }

    /// The backend.
    #[inline(always)]
    pub const fn backend(&self) -> Backend {
        Backend { addr: self.addr, port: self.port, proto: self.proto, pad: self.pad }
    }
}
