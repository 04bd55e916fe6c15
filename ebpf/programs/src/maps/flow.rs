//! Access to entries of the flow tables.

use sluice_abi::{Direction, FlowEntry, FlowKey, flow_flags};

use super::{FLOWS, FLOWS_NEW_POD, FLOWS_NEW_WIRE};

/// Whether two tuples are equal, apart from the mark of shadowed keys.
#[inline(always)]
pub fn same_tuple(a: &FlowKey, b: &FlowKey) -> bool {
    a.src == b.src
        && a.dst == b.dst
        && a.sport == b.sport
        && a.dport == b.dport
        && a.proto == b.proto
}
/// A flow entry in a map. Fields are read and written one by one: other CPUs access the entry at the
/// same time, so that no reference to it can exist.
#[derive(Clone, Copy)]
pub struct FlowRef(*mut FlowEntry);

/// The entry with this key in `FLOWS`.
#[inline(always)]
pub fn confirmed_flow(key: &FlowKey) -> Option<FlowRef> {
    FLOWS.get_ptr_mut(key).map(FlowRef)
}

/// The entry with this key in either table of flows without reply.
#[inline(always)]
pub fn new_flow(key: &FlowKey) -> Option<FlowRef> {
    if let Some(entry) = FLOWS_NEW_POD.get_ptr_mut(key) {
        return Some(FlowRef(entry));
    }
    FLOWS_NEW_WIRE.get_ptr_mut(key).map(FlowRef)
}

/// The entry with this key among the flows without reply of pods and the node, or among those of senders beyond the
/// uplinks.
#[inline(always)]
pub fn new_flow_of(pods: bool, key: &FlowKey) -> Option<FlowRef> {
    let found = if pods { FLOWS_NEW_POD.get_ptr_mut(key) } else { FLOWS_NEW_WIRE.get_ptr_mut(key) };
    found.map(FlowRef)
}

/// The entry with this key in any flow table. `FLOWS` comes last: a flow that is confirmed meanwhile
/// is inserted there before it is removed from the others.
#[inline(always)]
pub fn any_flow(key: &FlowKey) -> Option<FlowRef> {
    match new_flow(key) {
        Some(entry) => Some(entry),
        None => confirmed_flow(key),
    }
}

impl FlowRef {
    /// Copies the entry.
    #[inline(always)]
    pub fn copy(self, to: &mut FlowEntry) {
        // SAFETY: the memory of a removed entry remains a valid `FlowEntry` until the program ends,
        // as in all accesses below. Another flow may have it by then: the caller compares the tuple of the copy.
        *to = unsafe { *self.0 };
    }

    /// Whether [`FlowEntry::tuple`] is this one.
    #[inline(always)]
    pub fn has_tuple(self, tuple: &FlowKey) -> bool {
        // SAFETY: see `copy`. A comparison with an entry that another CPU replaces has either result.
        unsafe { same_tuple(&(*self.0).tuple, tuple) }
    }

    /// Whether [`FlowEntry::other`] is this one.
    #[inline(always)]
    pub fn has_other(self, tuple: &FlowKey) -> bool {
        // SAFETY: see `has_tuple`.
        unsafe { same_tuple(&(*self.0).other, tuple) }
    }

    /// Whether the flow is translated.
    #[inline(always)]
    pub fn is_translated(self) -> bool {
        // SAFETY: see `has_tuple`.
        unsafe { !same_tuple(&(*self.0).tuple, &(*self.0).other) }
    }

    /// Sets a key to that of [`FlowEntry::other`].
    #[inline(always)]
    pub fn sort_other(self, key: &mut FlowKey) {
        // SAFETY: see `has_tuple`.
        unsafe { key.sort(&(*self.0).other) }
    }

    /// [`FlowEntry::account`].
    #[inline(always)]
    pub fn account(self) -> u32 {
        // SAFETY: see `copy`.
        unsafe { (*self.0).account() }
    }

    /// [`FlowEntry::tcp`].
    #[inline(always)]
    pub fn tcp(self) -> [u8; 2] {
        // SAFETY: see `copy`.
        unsafe { (*self.0).tcp }
    }

    /// [`FlowEntry::is_alias`].
    #[inline(always)]
    pub fn is_alias(self) -> bool {
        // SAFETY: see `copy`.
        unsafe { (*self.0).flags & flow_flags::ALIAS != 0 }
    }

    /// The entry's address, for global functions.
    #[inline(always)]
    pub fn as_ptr(self) -> *mut FlowEntry {
        self.0
    }

    /// Sets [`FlowEntry::tcp`] of one direction. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_tcp(self, direction: Direction, state: u8) {
        // SAFETY: see `copy`. Constant indices: see `config::Node::addr`.
        unsafe {
            match direction {
                Direction::Forward => (*self.0).tcp[0] = state,
                Direction::Reply => (*self.0).tcp[1] = state,
            }
        }
    }

    /// [`FlowEntry::seen`].
    #[inline(always)]
    pub fn seen(self) -> u32 {
        // SAFETY: see `copy`.
        unsafe { (*self.0).seen }
    }

    /// Sets [`FlowEntry::seen`]. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_seen(self, tick: u32) {
        // SAFETY: see `copy`.
        unsafe { (*self.0).seen = tick }
    }

    /// Sets [`FlowEntry::judged`]. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_judged(self, epoch: u32) {
        // SAFETY: see `copy`.
        unsafe { (*self.0).judged = epoch }
    }

    /// Sets [`FlowEntry::flags`]. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_flags(self, flags: u8) {
        // SAFETY: see `copy`.
        unsafe { (*self.0).flags = flags }
    }
}
