//! One pod's network on the node: create, verify, repair, remove.
//!
//! ```text
//! lease      which pod has which address: a pure choice, and a file under a lock
//! identity   names and hardware addresses that follow from container id and interface name
//! wiring     the veth pair, its addresses, routes, neighbours, programs and LOCAL_PODS row
//! inventory  what the host's devices say: live leases, rows of LOCAL_PODS, rebuilt leases
//! device     links, addresses, routes and neighbours, one netlink request each
//! netns      a pod's network namespace from outside
//! pins       the pinned programs and map that wiring needs
//! ```
//! The CNI binary and the agent use it; it contains nothing of the CNI specification.

pub mod device;
pub mod identity;
pub mod inventory;
pub mod lease;
pub mod netns;
pub mod pins;
pub mod wiring;
