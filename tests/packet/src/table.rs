//! The small world that the tests play in, and the addresses in it.
//!
//! ```text
//! CLIENT 10.244.1.10 (ifindex CLIENT_IFINDEX) --+
//!                                            NODE 172.18.0.2 == uplink == OTHER_NODE 172.18.0.3 -- FAR_POD 10.244.2.20
//! SERVER 10.244.1.20 (ifindex SERVER_IFINDEX) --+                    \= NEIGHBOUR 172.18.0.1 -- OUTSIDE 198.51.100.7
//! ```

use sluice_abi::Addr;

/// A pod on this node; its veth is the namespace's loopback device, which always exists.
pub const CLIENT: [u8; 4] = [10, 244, 1, 10];
/// Interface index that packets of [`CLIENT`] come in on.
pub const CLIENT_IFINDEX: u32 = 1;
/// Another pod on this node.
pub const SERVER: [u8; 4] = [10, 244, 1, 20];
/// Interface index of [`SERVER`]; only redirected to.
pub const SERVER_IFINDEX: u32 = 77;
/// A pod on [`OTHER_NODE`].
pub const FAR_POD: [u8; 4] = [10, 244, 2, 20];
/// This node.
pub const NODE: [u8; 4] = [172, 18, 0, 2];
/// Another node.
pub const OTHER_NODE: [u8; 4] = [172, 18, 0, 3];
/// The router to the outside.
pub const NEIGHBOUR: [u8; 4] = [172, 18, 0, 1];
/// A host outside the cluster.
pub const OUTSIDE: [u8; 4] = [198, 51, 100, 7];
/// The gateway that pods see.
pub const GATEWAY: [u8; 4] = [169, 254, 1, 1];
/// A Service address.
pub const VIP: [u8; 4] = [10, 96, 0, 50];
/// The client's port.
pub const PORT: u16 = 40_000;

/// The key form of four bytes.
pub fn v4(address: [u8; 4]) -> Addr {
    Addr::v4(address)
}
