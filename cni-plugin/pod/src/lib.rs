//! One pod's network on the node: create, verify, repair, remove.
//!
//! ```text
//! network    PodNetwork: veth pair, addresses, routes, neighbours, sysctls, programs and the
//!            LOCAL_PODS row; repair of the node's half
//! lease      address leases: a pure choice, and one file per lease under a lock
//! identity   names and hardware addresses derived from container id and interface name
//! inventory  what the host's devices show: live leases, LOCAL_PODS rows, rebuilt leases
//! reclaim    the end of leases without a DEL: rows, then lease
//! device     links, addresses, routes and neighbours, one netlink request each
//! netns      a pod's network namespace from outside
//! host_port  hostPorts: the HOST_PORTS rows
//! dataplane  the pinned programs and the maps that a pod's network uses
//! notice     the datagram by which a call of the CNI binary informs the agent
//! random     random numbers of the kernel
//! ```
//! The CNI binary creates, verifies and removes; the agent repairs. The crate contains nothing of
//! the CNI specification, and it does not log: callers report its errors.

use std::net::Ipv4Addr;

mod dataplane;
pub mod device;
mod host_port;
pub mod identity;
pub mod inventory;
pub mod lease;
pub mod netns;
mod network;
mod notice;
pub mod random;
mod reclaim;

pub use dataplane::{Dataplane, RowNumber};
pub use host_port::{HostPort, Protocol};
pub use network::{
    CreateError, HostPath, NetworkError, PathPart, PodNetwork, RowKeys, VethOptions, VethPair,
    host_path, host_paths, is_complete, pod_routes, remove_local_pod, remove_rows_of_released,
    remove_veth, restore,
};
pub use notice::{NOTICE_MAX, Notice, NoticeVerb, notice_socket};
pub use reclaim::{Kept, Reclaim, Reclaimed};

/// The default gateway of every pod. It is link-local and configured on no interface; a permanent
/// neighbour entry in the pod resolves it to the host end of the veth pair.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Routing protocol number of every route that Sluice creates (`ip route show proto 83`). Routes
/// with another number belong to other software.
pub const ROUTE_PROTOCOL: u8 = 83;

/// Folder of the sysctls.
pub const PROC_SYS: &str = "/proc/sys";

/// Default folder of the leases. It ends with the boot, as pods and pins do.
pub const DEFAULT_STATE_DIR: &str = "/run/sluice/cni";

/// Default folder of versions that kept all leases in one file.
pub const FORMER_STATE_DIR: &str = "/var/lib/sluice/cni";
