//! Per-CPU memory of global functions of this stage and others, whose stack is too small for keys and
//! entries.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::{FlowEntry, FlowKey, FrontendKey};

#[map]
static FLOW_WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct Work {
    keys: [FlowKey; 6],
    holder: FlowEntry,
    frontend: FrontendKey,
}

/// Keys, by the function that uses them.
#[derive(Clone, Copy)]
pub enum Key {
    /// `conntrack_find_unusual`.
    Unusual,
    /// Of the main entry, in the functions that write or remove one.
    Main,
    /// Of the alias, where a main entry is at hand.
    Alias,
    /// Of a lookup in `conntrack_alias_key`.
    Candidate,
    /// `icmp_find_original`.
    Quoted,
    /// `policy_record`.
    Judged,
}

/// A key.
///
/// # Safety
/// No other reference to the same key exists: the functions that use one do not call each other.
#[inline(always)]
pub unsafe fn key(which: Key) -> Option<&'static mut FlowKey> {
    let work = FLOW_WORK.get_ptr_mut(0)?;
    // SAFETY: this CPU's entry; the caller guarantees that the reference is the only one. Constant
    // indices: see `config::Node::addr`.
    unsafe {
        Some(match which {
            Key::Unusual => &mut (*work).keys[0],
            Key::Main => &mut (*work).keys[1],
            Key::Alias => &mut (*work).keys[2],
            Key::Candidate => &mut (*work).keys[3],
            Key::Quoted => &mut (*work).keys[4],
            Key::Judged => &mut (*work).keys[5],
        })
    }
}

/// Memory for a copy of the entry that holds a key.
///
/// # Safety
/// As for [`key`].
#[inline(always)]
pub unsafe fn holder() -> Option<&'static mut FlowEntry> {
    let work = FLOW_WORK.get_ptr_mut(0)?;
    // SAFETY: as in `key`.
    unsafe { Some(&mut (*work).holder) }
}

/// A key of frontends, for `conntrack_refresh`.
///
/// # Safety
/// As for [`key`].
#[inline(always)]
pub unsafe fn frontend_key() -> Option<&'static mut FrontendKey> {
    let work = FLOW_WORK.get_ptr_mut(0)?;
    // SAFETY: as in `key`.
    unsafe { Some(&mut (*work).frontend) }
}
