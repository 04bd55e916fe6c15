//! Writes to the flow tables.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::{FlowEntry, FlowKey};

use crate::flow::DestinationClass;
use crate::maps::{FLOWS, FLOWS_NEW_POD, FLOWS_NEW_WIRE};

/// `BPF_ANY`.
pub const ANY: u64 = 0;
/// `BPF_NOEXIST`.
pub const NOEXIST: u64 = 1;
/// `EEXIST`, as helpers return it.
const EEXIST: i32 = -17;

/// Results of the global functions of this stage.
pub const OK: u32 = 0;
pub const TAKEN: u32 = 1;
pub const FULL: u32 = 2;

/// A table of flows.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Table {
    /// `FLOWS_NEW_POD`.
    NewPod = 0,
    /// `FLOWS_NEW_WIRE`.
    NewWire = 1,
    /// `FLOWS`.
    Confirmed = 2,
}

impl Table {
    /// The table with a number.
    #[inline(always)]
    pub fn from_number(n: u32) -> Table {
        match n {
            0 => Table::NewPod,
            1 => Table::NewWire,
            _ => Table::Confirmed,
        }
    }

    /// The table for a flow that is not confirmed, by its main entry: that of pods and of this node,
    /// or that of senders beyond the uplinks.
    #[inline(always)]
    pub fn of_new(entry: &FlowEntry) -> Table {
        let is_from_node = entry.classes[1] == DestinationClass::Node as u8;
        if is_from_node || !entry.client.is_none() { Table::NewPod } else { Table::NewWire }
    }
}

/// An entry and its key, while they are inserted: helpers of kernels before 6.4 accept neither from
/// an argument of a global function, and the stack is too small for both.
#[repr(C)]
pub struct EntryWrite {
    /// The key.
    pub key: FlowKey,
    /// The entry.
    pub entry: FlowEntry,
}

#[map]
static ENTRY_WRITE: PerCpuArray<EntryWrite> = PerCpuArray::with_max_entries(1, 0);

/// Inserts an entry. `fill` sets it and must not insert another one.
#[inline(always)]
pub fn insert(table: Table, flags: u64, fill: impl FnOnce(&mut EntryWrite)) -> u32 {
    let Some(write) = ENTRY_WRITE.get_ptr_mut(0) else { return FULL };
    // SAFETY: this CPU's entry. References to it exist only in this function, which `fill` does not
    // call.
    let write = unsafe { &mut *write };
    fill(write);
    let inserted = match table {
        Table::NewPod => FLOWS_NEW_POD.insert(&write.key, &write.entry, flags),
        Table::NewWire => FLOWS_NEW_WIRE.insert(&write.key, &write.entry, flags),
        Table::Confirmed => FLOWS.insert(&write.key, &write.entry, flags),
    };
    match inserted {
        Ok(()) => OK,
        Err(EEXIST) => TAKEN,
        Err(_) => FULL,
    }
}

/// Removes the entry with this key from every table. Returns the number of entries that were in
/// `FLOWS`: 1 or 0.
#[inline(always)]
pub fn remove(key: &FlowKey) -> u32 {
    let confirmed = u32::from(remove_confirmed(key));
    remove_new(key);
    confirmed
}

/// Removes the entry with this key from the tables of flows without reply.
#[inline(always)]
pub fn remove_new(key: &FlowKey) {
    let _ = FLOWS_NEW_POD.remove(key);
    let _ = FLOWS_NEW_WIRE.remove(key);
}

/// Removes the entry with this key from `FLOWS`. Returns whether it was there.
#[inline(always)]
pub fn remove_confirmed(key: &FlowKey) -> bool {
    FLOWS.remove(key).is_ok()
}
