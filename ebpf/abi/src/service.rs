//! Services: frontend -> range of slots -> backend.
//!
//! ```text
//! FRONTENDS {address, port, protocol} -> {offset, length, ...}
//! SLOTS     [offset + hash % length]  -> backend id
//! BACKENDS  {id}                      -> address, port
//! ```
//! A change writes new backends, then a new range of slots, then the frontend, so that a program
//! never reads a partial table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// Port of the wildcard entry, which matches every other port of a Service address.
pub const WILDCARD_PORT: PortBe = PortBe::new(0);
/// Protocol of the wildcard entry, which matches every other protocol of a Service address.
pub const WILDCARD_PROTO: u8 = 0;

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

/// Value of `FRONTENDS`: the backends of a frontend.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Frontend {
    /// Id of the Service port, stable while the port exists, also over agent restarts; never 0.
    pub service: u32,
    /// First slot of the range.
    pub slots_offset: u32,
    /// Number of slots; 0: no endpoint, the connection is rejected.
    pub slots_len: u32,
    /// Bits of [`frontend_flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Frontend>() == 16);

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// Endpoints exist, but traffic policy Local excludes all of them: packets are dropped, not
    /// rejected.
    pub const DROP: u32 = 1;
    /// A wildcard entry: packets that match it are rejected.
    pub const WILDCARD: u32 = 2;
}

/// Value of `BACKENDS`: one endpoint of a Service port.
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
