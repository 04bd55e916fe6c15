//! Name of every program. A program is pinned as `<pins>/programs/<name>`.

/// tc, ingress of the host end of a pod's veth: packets from the pod.
pub const FROM_POD: &str = "from_pod";
/// tc, egress of the host end of a pod's veth: packets from the node's stack to the pod.
pub const TO_POD: &str = "to_pod";
/// tc, ingress of the uplink.
pub const FROM_NETDEV: &str = "from_netdev";
/// tc, egress of the uplink.
pub const TO_NETDEV: &str = "to_netdev";

/// [`FROM_NETDEV`] for a device whose packets have no Ethernet header.
pub const FROM_L3DEV: &str = "from_l3dev";
/// [`TO_NETDEV`] for a device whose packets have no Ethernet header.
pub const TO_L3DEV: &str = "to_l3dev";

/// XDP, ingress of the uplink.
pub const XDP_NETDEV: &str = "xdp_netdev";

/// The tc programs.
pub const TC: [&str; 6] = [FROM_POD, TO_POD, FROM_NETDEV, TO_NETDEV, FROM_L3DEV, TO_L3DEV];

/// Runs when a socket is closed.
pub const SOCK_RELEASE: &str = "sock_release";

/// The cgroup socket programs, each attached at the node's cgroup root under the attach type of
/// the same name. The one that removes what `connect` records is attached first.
pub const SOCKET: [&str; 9] = [
    SOCK_RELEASE,
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// Every program, in the order in which they are loaded.
pub fn all() -> impl Iterator<Item = &'static str> {
    TC.into_iter().chain(SOCKET).chain([XDP_NETDEV])
}

/// The hook that reports an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    /// [`FROM_POD`].
    FromPod = 1,
    /// [`TO_POD`].
    ToPod = 2,
    /// [`FROM_NETDEV`], [`FROM_L3DEV`].
    FromNetdev = 3,
    /// [`TO_NETDEV`], [`TO_L3DEV`].
    ToNetdev = 4,
}

impl Hook {
    /// The hook with number `n`, if there is one.
    pub const fn from_number(n: u8) -> Option<Hook> {
        match n {
            1 => Some(Hook::FromPod),
            2 => Some(Hook::ToPod),
            3 => Some(Hook::FromNetdev),
            4 => Some(Hook::ToNetdev),
            _ => None,
        }
    }

    /// Name of its program, for devices with an Ethernet header.
    pub const fn program(self) -> &'static str {
        TC[self.index() as usize]
    }

    /// Index of the hook's program in the program arrays of a migration, and in [`TC`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32 - 1
    }

    /// The same for the program of a device whose packets have no Ethernet header.
    #[inline(always)]
    pub const fn l3_index(self) -> u32 {
        self.index() + 2
    }
}

/// Mark in the control block of a packet that one version's programs pass to those of another
/// version; the numbers are the same in every version.
pub mod handover_mark {
    /// Word of the control block.
    pub const WORD: usize = 3;
    /// To a predecessor: handle the packet if its flow is known, else return it.
    pub const ASK: u32 = 0x51c_a5c;
    /// To a successor: the predecessor has no flow of this packet.
    pub const UNKNOWN: u32 = 0x51c_0e3;
}
