//! What depends on the client of a Service: session affinity, source ranges, and the pod that a
//! socket belongs to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Key of `AFFINITY`: a client of a Service port, whatever frontend it uses.
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
pub struct AffinityKey {
    /// The client's address before source translation.
    pub client: Addr,
    /// Id of the Service port.
    pub service: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 20);

/// Value of `AFFINITY`: the backend of the client's last new connection.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Affinity {
    /// Backend id.
    pub backend: u32,
    /// Time of that connection: seconds of `CLOCK_MONOTONIC`, rounded down.
    pub at: u32,
}

const _: () = assert!(size_of::<Affinity>() == 8);

/// Key of the `SOURCE_RANGES` LPM trie: a source range of a Service port. The value is 1.
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
pub struct SourceRangeKey {
    /// Length of the prefix in bits, those of `service` included: 32 to 160; an IPv4 /24 is 152.
    pub prefix_len: u32,
    /// Id of the Service port.
    pub service: u32,
    /// Network address, host bits zero.
    pub addr: Addr,
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

/// Value of `POD_NETNS`: the pod with this network namespace.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PodNetns {
    /// The pod's addresses, by [`crate::Family`]; unspecified for a family that it does not have.
    pub addrs: [Addr; 2],
}

const _: () = assert!(size_of::<PodNetns>() == 32);
