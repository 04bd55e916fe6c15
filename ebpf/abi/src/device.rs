//! The node's network devices, as the programs see them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Value of `DEVICES`. A device without an entry is one that the agent has not seen yet.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Device {
    /// Source of the flows of pods that leave by this device and are masqueraded; an IPv4 address.
    pub addr: Addr,
    /// Bits of [`device_flags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Device>() == 24);

/// Bits of [`Device::flags`].
pub mod device_flags {
    /// The device has Sluice's programs, which translate replies back. Flows of pods that leave by
    /// any other device keep the pod's address.
    pub const MANAGED: u32 = 1;
    /// Packets have no Ethernet header.
    pub const NO_ETHERNET: u32 = 2;
}
