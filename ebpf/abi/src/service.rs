//! Services: frontend -> run of slots -> backend.
//!
//! ```text
//! FRONTENDS {address, port, protocol} -> {offset, length, ...}
//! SLOTS     [offset + hash % length]  -> backend id
//! BACKENDS  {id}                      -> address, port
//! ```
//! A change writes new backends, then a new run of slots, then flips the frontend: a reader never
//! sees half a table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// Port of the entry that stands for every other port of a Service address.
pub const WILDCARD_PORT: PortBe = PortBe::new(0);
/// Protocol of the entry that stands for every other port and protocol of a Service address.
pub const WILDCARD_PROTO: u8 = 0;

/// Where clients send: one address, port and protocol.
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
    /// Service port; [`WILDCARD_PORT`] in the entry that keeps unknown ports of a live address
    /// from being routed.
    pub port: PortBe,
    /// IP protocol number; [`WILDCARD_PROTO`] in the wildcard entry.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);

/// What a frontend leads to.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Frontend {
    /// Id of the Service port, stable while the port exists, also over agent restarts; never 0.
    pub service: u32,
    /// First slot of the run.
    pub slots_offset: u32,
    /// Number of slots; 0: no endpoint, the client is refused.
    pub slots_len: u32,
    /// Bits of [`frontend_flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Frontend>() == 16);

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// There are endpoints, but a Local policy lets none be used: drop instead of refusing.
    pub const DROP: u32 = 1;
    /// This is a wildcard entry: whatever reaches it is refused.
    pub const WILDCARD: u32 = 2;
}

/// One endpoint of a Service, as packets reach it.
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
