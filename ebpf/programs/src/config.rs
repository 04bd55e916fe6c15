//! Configuration: the node's, which the agent writes to a map, and the kernel's, which the loader
//! writes to globals.

use sluice_abi::{Addr, FlowKey, NodeConfig, PortBe, node_flags};
use sluice_packet::{select, siphash};

use crate::maps::NODE_CONFIG;

/// Whether the kernel has `bpf_set_retval` (Linux 5.18). The loader sets it, and the verifier
/// removes the code that a kernel does not support.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: u8 = 0;

/// Whether a socket program can set the error number of a rejected system call.
#[inline(always)]
pub fn have_set_retval() -> bool {
    // SAFETY: a plain byte; volatile, because the loader writes it after compilation.
    unsafe { core::ptr::read_volatile(&raw const HAVE_SET_RETVAL) != 0 }
}

/// The node's configuration. The agent may replace the entry at any time, so that each function
/// reads its fields anew.
#[derive(Clone, Copy)]
pub struct Node(*const NodeConfig);

/// The node's configuration, if the agent has written it.
#[inline(always)]
pub fn node() -> Option<Node> {
    let node = Node(NODE_CONFIG.get_ptr(0)?);
    if node.flags() & node_flags::READY == 0 { None } else { Some(node) }
}

impl Node {
    /// Bits of [`node_flags`].
    #[inline(always)]
    pub fn flags(self) -> u32 {
        // SAFETY: an array entry exists as long as the map; plain integers, as in all reads below.
        unsafe { (*self.0).flags }
    }

    /// The node's address of the family of `peer`.
    #[inline(always)]
    pub fn addr(self, peer: &Addr) -> Addr {
        // SAFETY: see `flags`.
        // Constant indices: the verifier of Linux 6.12 does not bound a computed one.
        unsafe { if peer.is_v4() { (*self.0).addrs[0] } else { (*self.0).addrs[1] } }
    }

    /// Whether an address is the node's on the uplink, or the pods' gateway.
    #[inline(always)]
    pub fn owns(self, addr: &Addr) -> bool {
        // SAFETY: see `flags`. A comparison with a value that the agent replaces has either result.
        unsafe {
            if addr.is_v4() {
                (*self.0).addrs[0] == *addr || (*self.0).gateways[0] == *addr
            } else {
                (*self.0).addrs[1] == *addr || (*self.0).gateways[1] == *addr
            }
        }
    }

    /// Whether packets from pods to addresses outside the cluster are masqueraded.
    #[inline(always)]
    pub fn masquerades(self) -> bool {
        self.flags() & node_flags::MASQUERADE != 0
    }

    /// A hash of a tuple that cannot be computed outside this node: the first choice of a source
    /// port, which a flow without an entry finds again.
    #[inline(always)]
    pub fn hash(self, tuple: &FlowKey) -> u32 {
        // SAFETY: see `flags`.
        let key = unsafe { (*self.0).snat_key };
        siphash::of_tuple(key, tuple) as u32
    }

    /// The source port of an attempt to translate a flow's source, if there are ports at all.
    #[inline(always)]
    pub fn source_port(self, hash: u32, attempt: u32) -> Option<PortBe> {
        // SAFETY: see `flags`.
        let ranges = unsafe { (*self.0).snat_ports };
        select::source_port(&ranges, hash, attempt)
    }

    /// Cookie of the node's network namespace.
    #[inline(always)]
    pub fn netns_cookie(self) -> u64 {
        // SAFETY: see `flags`.
        unsafe { (*self.0).netns_cookie }
    }

    /// Limit of a pod's entries in `FLOWS`.
    #[inline(always)]
    pub fn flows_per_pod(self) -> u32 {
        // SAFETY: see `flags`.
        unsafe { (*self.0).flows_per_pod }
    }

    /// Limit of the entries in `FLOWS` of all flows without a pod of this node, except TCP.
    #[inline(always)]
    pub fn flows_without_pod(self) -> u32 {
        // SAFETY: see `flags`.
        unsafe { (*self.0).flows_without_pod }
    }
}
