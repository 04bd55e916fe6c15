//! The next hop of a packet.
//!
//! A route lookup takes a third of the time of a packet to another node. Each CPU keeps the results of
//! its last lookups for the rest of a tick: a changed route is used after 1.07 s at the latest,
//! without notifications of the kernel.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::Addr;

use crate::flow::Flow;
use crate::kernel::{NextHop, Route};
use crate::packet::Packet;
use crate::stage::outline::Outlined;

/// Lookups that a CPU keeps; a power of two.
const SLOTS: u32 = 512;

/// A lookup: what it depends on, its tick and its result.
#[repr(C)]
struct Recent {
    src: Addr,
    dst: Addr,
    ifindex: u32,
    proto: u32,
    tick: u32,
    hop: NextHop,
}

/// The last lookups that found a next hop, by a hash of the addresses.
#[map]
static NEXT_HOPS: PerCpuArray<Recent> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Ticks (34 s) after which a next hop gets a packet from the stack again.
const NEIGHBOUR_TICKS: u32 = 32;

/// When this CPU has last left a packet to the stack, by the last byte of the next hop's address.
///
/// Packets that leave by XDP do not use the neighbour entry: the kernel would keep the hardware address
/// of a host that has another one by now. For a packet from tc it sends a new request, if the entry is
/// as old as one that the stack checks by itself.
#[map]
static NEIGHBOUR_USES: PerCpuArray<u32> = PerCpuArray::with_max_entries(256, 0);

/// Whether the stack has to send a packet, so that the kernel keeps checking the neighbour entry of its next
/// hop.
#[inline(always)]
fn neighbour_is_due(hop: &NextHop, tick: u32) -> bool {
    let Some(used) = NEIGHBOUR_USES.get_ptr_mut(u32::from(hop.addr.0[15])) else { return true };
    // SAFETY: this CPU's entry, to which no other reference exists.
    let used = unsafe { &mut *used };
    // The first packet counts as one of the stack: the kernel has just resolved the address.
    let is_due = *used != 0 && tick.wrapping_sub(*used) >= NEIGHBOUR_TICKS;
    if is_due || *used == 0 {
        *used = tick;
    }
    is_due
}

/// Finds the next hop of a packet with these translated addresses.
#[inline(always)]
pub fn find<F: Outlined>(f: &F, packet: &Packet, flow: &Flow, hop: &mut NextHop) -> Route {
    let (src, dst) = (&packet.tuple.src, &flow.translated.dst);
    let proto = u32::from(packet.tuple.proto);
    let tick = packet.tick;
    // SAFETY: the only reference of this run.
    let recent = unsafe { slot(src, dst) };
    if let Some(recent) = &recent
        && recent.tick == tick
        && recent.dst == *dst
        && recent.src == *src
        && recent.ifindex == packet.ifindex
        && recent.proto == proto
        && packet.wire_len <= recent.hop.mtu
        && (!F::NEEDS_NEIGHBOUR || recent.hop.is_resolved())
    {
        *hop = recent.hop;
        return Route::Found;
    }
    let route = f.route(packet, &flow.translated, packet.wire_len, hop);
    if F::NEEDS_NEIGHBOUR
        && route == Route::Found
        && hop.is_resolved()
        && neighbour_is_due(hop, tick)
    {
        return Route::None;
    }
    if route == Route::Found
        && let Some(recent) = recent
    {
        let ifindex = packet.ifindex;
        *recent = Recent { src: *src, dst: *dst, ifindex, proto, tick, hop: *hop };
    }
    route
}

/// This CPU's slot of a pair of addresses.
///
/// # Safety
/// The run of the program has no other reference to a slot.
#[inline(always)]
unsafe fn slot(src: &Addr, dst: &Addr) -> Option<&'static mut Recent> {
    let [.., a, b] = dst.0;
    let n = u32::from(b) ^ u32::from(a) << 4 ^ u32::from(src.0[15]) << 1;
    let recent = NEXT_HOPS.get_ptr_mut(n & (SLOTS - 1))?;
    // SAFETY: this CPU's entry; see above.
    Some(unsafe { &mut *recent })
}
