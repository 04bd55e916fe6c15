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
    /// Hardware address; zero if the device has none.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Device>() == 28);

/// Bits of [`Device::flags`].
pub mod device_flags {
    /// The device has Sluice's programs, which translate replies back. Flows of pods that leave by
    /// any other device keep the pod's address.
    pub const MANAGED: u32 = 1;
    /// Packets have no Ethernet header.
    pub const NO_ETHERNET: u32 = 2;
    /// The XDP program is attached in the device's driver.
    pub const XDP_NATIVE: u32 = 4;
    /// The XDP program is attached in the kernel's receive path.
    pub const XDP_GENERIC: u32 = 8;
    /// The modes of XDP. XDP forwards from one device to another of the same mode.
    pub const XDP: u32 = XDP_NATIVE | XDP_GENERIC;
}
