//! Moves flows between `FLOWS`, which never evicts, and the tables of flows without reply, which
//! evict the least recently used.

use sluice_abi::{FlowEntry, FlowKey, PodFlows, flow_flags, map};
use sluice_packet::budget;

use super::insert::{ANY, FULL, NOEXIST, OK, TAKEN, Table, insert, remove_confirmed, remove_new};
use super::work::{self, Key};
use crate::{config, maps};

/// Moves an answered flow to `FLOWS`. It remains where it is if the limit is reached that it
/// [counts for](FlowEntry::account), or `FLOWS` is full.
#[inline(always)]
pub fn confirm(entry: &FlowEntry) {
    conntrack_confirm(entry);
}

/// Moves a closed flow from `FLOWS` to the tables that evict.
#[inline(always)]
pub fn retire(entry: &FlowEntry) {
    conntrack_retire(entry);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_confirm(entry: *const FlowEntry) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(entry) = (unsafe { entry.as_ref() }) else { return FULL };
    let Some(node) = config::node() else { return FULL };
    let entries = entries_of(entry);
    let account = entry.account();
    let limit = if account == map::FLOWS_WITHOUT_POD {
        node.flows_without_pod()
    } else {
        node.flows_per_pod()
    };
    // SAFETY: the only reference of this run.
    let mut limits = unsafe { limits_of(account) };
    if let Some(limits) = &mut limits
        && limits.confirmed.saturating_add(entries) > limit
    {
        count_unconfirmed(limits, entry);
        return FULL;
    }
    let inserted = write_main(Table::Confirmed, NOEXIST, entry);
    // SAFETY: used in the functions of this file only, which call neither each other nor `write_*`
    // while they hold it.
    let Some(key) = (unsafe { work::key(Key::Main) }) else { return FULL };
    key.sort(&entry.tuple);
    let mut is_full = inserted == FULL;
    if inserted == OK && entry.is_translated() && write_alias(Table::Confirmed, entry) != OK {
        remove_confirmed(key);
        is_full = true;
    }
    if is_full {
        if let Some(limits) = &mut limits {
            count_unconfirmed(limits, entry);
        }
        return FULL;
    }
    remove_new(key);
    if entry.is_translated()
        && let Some(alias) = alias_key(entry)
    {
        remove_new(alias);
    }
    if inserted == TAKEN {
        // Another CPU has confirmed the flow.
        return OK;
    }
    if let Some(limits) = limits {
        limits.confirmed = limits.confirmed.saturating_add(entries);
        // A flow that no pod of this node has opened has taken no token.
        if !entry.client.is_none() {
            budget::give_back(limits);
        }
    }
    OK
}

/// Counts a flow that cannot be confirmed, with the first of its packets that would confirm it.
#[inline(always)]
fn count_unconfirmed(limits: &mut PodFlows, entry: &FlowEntry) {
    if entry.flags & flow_flags::UNCONFIRMED != 0 {
        return;
    }
    // SAFETY: the caller does not use the key any more.
    let Some(key) = (unsafe { work::key(Key::Main) }) else { return };
    key.sort(&entry.tuple);
    if let Some(main) = maps::new_flow(key)
        && !main.is_alias()
        && main.has_tuple(&entry.tuple)
    {
        main.set_flags(entry.flags | flow_flags::UNCONFIRMED);
        limits.unconfirmed = limits.unconfirmed.wrapping_add(1);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_retire(entry: *const FlowEntry) -> u32 {
    // SAFETY: see `conntrack_confirm`.
    let Some(entry) = (unsafe { entry.as_ref() }) else { return FULL };
    // SAFETY: see `conntrack_confirm`.
    let Some(key) = (unsafe { work::key(Key::Main) }) else { return FULL };
    key.sort(&entry.tuple);
    if maps::confirmed_flow(key).is_none() {
        return OK;
    }
    let table = Table::of_new(entry);
    // A failed insert leaves the flow in `FLOWS`, until it expires.
    if write_main(table, ANY, entry) != OK {
        return FULL;
    }
    if entry.is_translated() {
        if write_alias(table, entry) != OK {
            remove_new(key);
            return FULL;
        }
        if let Some(alias) = alias_key(entry) {
            remove_confirmed(alias);
        }
    }
    if remove_confirmed(key) {
        uncount(entry.account(), entries_of(entry));
    }
    OK
}

#[inline(always)]
fn entries_of(entry: &FlowEntry) -> u32 {
    if entry.is_translated() { 2 } else { 1 }
}

/// Subtracts entries that were removed from `FLOWS` from the row that they counted for.
#[inline(always)]
pub fn uncount(account: u32, entries: u32) {
    if entries > 0
        // SAFETY: the reference ends with this function, whose callers have none.
        && let Some(limits) = unsafe { limits_of(account) }
    {
        limits.confirmed = limits.confirmed.saturating_sub(entries);
    }
}

/// The limits that a flow counts for; `None` if it is not counted. Concurrent changes of other CPUs can be lost,
/// and a flow whose address a pod gets later is removed under another owner than it was added; the agent corrects
/// both.
///
/// # Safety
/// The run of the program has no other reference to limits.
#[inline(always)]
unsafe fn limits_of(account: u32) -> Option<&'static mut PodFlows> {
    // SAFETY: integers that exist as long as the map; see above.
    maps::pod_flows(account).map(|limits| unsafe { &mut *limits })
}

/// Writes the main entry of a flow.
#[inline(always)]
pub fn write_main(table: Table, flags: u64, entry: &FlowEntry) -> u32 {
    insert(table, flags, |write| {
        write.key.sort(&entry.tuple);
        write.entry = *entry;
    })
}

/// Writes the alias of a flow, by its main entry.
#[inline(always)]
pub fn write_alias(table: Table, entry: &FlowEntry) -> u32 {
    conntrack_write_alias(entry, table as u32)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_write_alias(entry: *const FlowEntry, table: u32) -> u32 {
    // SAFETY: see `conntrack_confirm`.
    let Some(entry) = (unsafe { entry.as_ref() }) else { return FULL };
    let Some(key) = alias_key(entry) else { return FULL };
    insert_alias(Table::from_number(table), ANY, key, entry)
}

/// Inserts the alias of a flow with a key.
#[inline(always)]
pub fn insert_alias(table: Table, flags: u64, key: &FlowKey, entry: &FlowEntry) -> u32 {
    insert(table, flags, |write| {
        write.key = *key;
        write.entry = *entry;
        write.entry.tuple = entry.other;
        write.entry.other = entry.tuple;
        write.entry.flags = entry.flags | flow_flags::ALIAS;
    })
}

/// The key of a flow's alias.
#[inline(always)]
pub fn alias_key(entry: &FlowEntry) -> Option<&'static FlowKey> {
    // SAFETY: `conntrack_alias_key` is the only function that writes to it; callers use the result
    // before they call it again.
    let key = unsafe { work::key(Key::Alias) }?;
    conntrack_alias_key(entry, key);
    Some(key)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_alias_key(entry: *const FlowEntry, to: *mut FlowKey) -> u32 {
    // SAFETY: see `conntrack_confirm`.
    let (Some(entry), Some(to)) = (unsafe { (entry.as_ref(), to.as_mut()) }) else { return FULL };
    // SAFETY: used in this function only.
    let Some(key) = (unsafe { work::key(Key::Candidate) }) else { return FULL };
    key.sort(&entry.other);
    let is_taken = match maps::any_flow(key) {
        Some(holder) => !holder.is_alias() && !holder.has_tuple(&entry.tuple),
        None => false,
    };
    if is_taken {
        *to = entry.other;
        to.shadow = 1;
    } else {
        *to = *key;
    }
    OK
}
