//! Name of every program, once for both sides. Pinned as `<pins>/programs/<name>`.

/// tc, ingress of the host end of a pod's veth: what the pod sends.
pub const FROM_POD: &str = "from_pod";
/// tc, egress of the host end of a pod's veth: what the node's stack sends to the pod.
pub const TO_POD: &str = "to_pod";
/// tc, ingress of the uplink.
pub const FROM_NETDEV: &str = "from_netdev";
/// tc, egress of the uplink.
pub const TO_NETDEV: &str = "to_netdev";

/// The tc programs.
pub const TC: [&str; 4] = [FROM_POD, TO_POD, FROM_NETDEV, TO_NETDEV];

/// The cgroup socket programs, each attached at the node's cgroup root under the attach type of
/// the same name.
pub const SOCKET: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// The hook that an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    /// [`FROM_POD`].
    FromPod = 1,
    /// [`TO_POD`].
    ToPod = 2,
    /// [`FROM_NETDEV`].
    FromNetdev = 3,
    /// [`TO_NETDEV`].
    ToNetdev = 4,
}
