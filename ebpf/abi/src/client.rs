//! What depends on the client of a Service: source ranges.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

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
