//! Flows of pods that have the tuple of the node's own packets.
//!
//! The node has one flow of a protocol without ports (ESP, GRE, IP in IP) with an address. A masqueraded flow of a pod
//! that is opened first would receive what the peer of a tunnel of the node sends.

use super::confirm::uncount;
use super::insert::{FULL, OK, remove};
use super::work::{self, Key};
use crate::maps;
use crate::packet::Packet;

/// Removes the flow that has the tuple of a packet after translation.
#[inline(always)]
pub fn displace(packet: &Packet) {
    conntrack_displace(packet);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_displace(packet: *const Packet) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return FULL };
    // SAFETY: used in this function, which calls none that uses them.
    let (Some(key), Some(alias)) = (unsafe { (work::key(Key::Main), work::key(Key::Alias)) })
    else {
        return FULL;
    };
    key.sort(&packet.tuple);
    let Some(main) = maps::any_flow(key) else { return OK };
    if main.is_alias() || !main.has_tuple(&packet.tuple) {
        return OK;
    }
    main.sort_other(alias);
    let account = main.account();
    let mut entries = remove(key);
    if let Some(found) = maps::any_flow(alias)
        && found.is_alias()
        && found.has_other(&packet.tuple)
    {
        entries += remove(alias);
    }
    uncount(account, entries);
    OK
}
