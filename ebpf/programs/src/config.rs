//! What the programs know of their node and their kernel.

use sluice_abi::{NodeConfig, node_flags};

use crate::maps::NODE_CONFIG;

/// Whether `bpf_set_retval` exists (Linux 5.18): set at load, and the verifier cuts off what this
/// kernel does not have.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: u8 = 0;

/// Whether a socket program can say which error a call ends with.
#[inline(always)]
pub fn have_set_retval() -> bool {
    // SAFETY: a plain byte; volatile, because the loader writes it after compilation.
    unsafe { core::ptr::read_volatile(&raw const HAVE_SET_RETVAL) != 0 }
}

/// The node's configuration, once the agent has written it.
#[inline(always)]
pub fn node() -> Option<&'static NodeConfig> {
    let ptr = NODE_CONFIG.get_ptr(0)?;
    // SAFETY: an array entry lives as long as the map; single fields may be read while the agent
    // replaces the entry, which is why `READY` comes with the first complete one.
    let node = unsafe { &*ptr };
    if node.flags & node_flags::READY == 0 { None } else { Some(node) }
}
