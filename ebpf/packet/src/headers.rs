//! The first bytes of a frame: link-layer and network-layer header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{eth, ip};

/// Link-layer and network-layer header of a frame, as loaded, modified and stored at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Headers {
    /// The Ethernet header.
    pub link: eth::Header,
    /// The IP header without options.
    pub ip: ip::Header,
}

impl Headers {
    /// Length in bytes.
    pub const LEN: usize = size_of::<Headers>();
}
