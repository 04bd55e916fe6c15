//! Source address checks.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::{Addr, DropReason, PodRef};
use sluice_packet::{Headers, arp, eth};

use crate::config::Node;
use crate::flow::DestinationClass;
use crate::frame::Frame;
use crate::maps;
use crate::packet::Packet;
use crate::stage::class;
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;

/// Drops packets whose source is not the pod behind the interface of the hook; returns that pod.
#[inline(always)]
pub fn require_own_address(packet: &Packet, headers: &Headers) -> Result<PodRef, Verdict> {
    let number = antispoof_own_pod(packet, headers);
    let pod = PodRef { index: (number >> 16) as u16, generation: number as u16 };
    if pod.is_none() { Err(Verdict::Drop(DropReason::Spoofed)) } else { Ok(pod) }
}

/// The pod behind the interface of the hook, if it is the source of a packet: its index in the high
/// half, its generation in the low one; 0 for another source.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn antispoof_own_pod(packet: *const Packet, headers: *const Headers) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(headers)) = (unsafe { (packet.as_ref(), headers.as_ref()) }) else {
        return 0;
    };
    // A copy: memory of an argument cannot be a key before Linux 6.4.
    let source = packet.tuple.src;
    match require_pod(&source, packet.ifindex, headers.link.source()) {
        Ok(pod) => u32::from(pod.index) << 16 | u32::from(pod.generation),
        Err(_) => 0,
    }
}

/// Drops ARP messages whose sender is not the pod behind the interface of the hook.
#[inline(always)]
pub fn require_own_arp<F: Frame>(f: &F, packet: &Packet, headers: &Headers) -> Result<(), Verdict> {
    let mut message = arp::Message([0; arp::LEN]);
    if !f.load(eth::LEN as u32, &mut message.0) {
        return Err(Verdict::Drop(DropReason::Malformed));
    }
    let Some(sender) = message.sender() else {
        return Err(Verdict::Drop(DropReason::Malformed));
    };
    if sender.mac != headers.link.source() {
        return Err(Verdict::Drop(DropReason::Spoofed));
    }
    require_pod(&sender.addr, packet.ifindex, sender.mac).map(|_| ())
}

#[inline(always)]
fn require_pod(addr: &Addr, ifindex: u32, mac: [u8; 6]) -> Result<PodRef, Verdict> {
    match maps::local_pod(addr) {
        Some(pod) if pod.sends(ifindex, mac) => Ok(pod.reference()),
        _ => Err(Verdict::Drop(DropReason::Spoofed)),
    }
}

/// The pod of this node that is the source of a packet.
#[inline(always)]
pub fn reference(packet: &Packet) -> PodRef {
    maps::local_pod(&packet.tuple.src).map_or(PodRef::NONE, |pod| pod.reference())
}

/// Drops packets from the uplink whose source is this node or a pod of it.
#[inline(always)]
pub fn require_remote_address(packet: &Packet, node: Node) -> Result<(), Verdict> {
    let src = &packet.tuple.src;
    if *src == node.addr(src) || maps::local_pod(src).is_some() {
        return Err(Verdict::Drop(DropReason::Spoofed));
    }
    Ok(())
}

/// The class of the source of a packet from the uplink. `Err`: the source cannot be behind the
/// sender: it is an address of this node, or a pod of another node that has another next hop.
#[inline(always)]
pub fn check_sender<F: Outlined>(
    f: &F,
    packet: &Packet,
    headers: &Headers,
) -> Result<DestinationClass, DestinationClass> {
    let class = class::of_other(&packet.tuple.src);
    match class {
        DestinationClass::LocalPod | DestinationClass::FreePodAddress | DestinationClass::Node => {
            Err(class)
        }
        DestinationClass::RemotePod if !f.is_from_next_hop(packet, headers) => Err(class),
        class => {
            // SAFETY: the only reference of this function, which calls none that has one.
            if let Some(recent) = unsafe { recent_sender(&packet.tuple.src) } {
                recent.addr = packet.tuple.src;
                recent.link = headers.link_addresses();
                recent.ifindex = packet.ifindex;
                recent.tick = packet.tick;
            }
            Ok(class)
        }
    }
}

/// A sender that [`check_sender`] has accepted for a source address on a device, with the receiver of the frame,
/// which is the device: only frames to it get there.
#[repr(C)]
struct Sender {
    addr: Addr,
    link: [u32; 3],
    tick: u32,
    ifindex: u32,
}

/// Senders of this CPU's last packets, by a hash of the source address. An established flow takes a
/// packet without another look at networks and routes in the tick in which they were consulted.
#[map]
static SENDERS: PerCpuArray<Sender> = PerCpuArray::with_max_entries(256, 0);

/// This CPU's entry for a source address.
///
/// # Safety
/// The run of the program has no other reference to an entry.
#[inline(always)]
unsafe fn recent_sender(addr: &Addr) -> Option<&'static mut Sender> {
    let slot = addr.0[15] ^ addr.0[14].rotate_left(4);
    let sender = SENDERS.get_ptr_mut(u32::from(slot))?;
    // SAFETY: this CPU's entry; see above.
    Some(unsafe { &mut *sender })
}

/// Whether [`check_sender`] has accepted this sender for the source of the packet in this tick, in a frame to the
/// same receiver.
#[inline(always)]
pub fn is_recent_sender(packet: &Packet, headers: &Headers) -> bool {
    // SAFETY: as in `check_sender`.
    let recent = unsafe { recent_sender(&packet.tuple.src) };
    recent.is_some_and(|recent| {
        recent.addr == packet.tuple.src
            && recent.link == headers.link_addresses()
            && recent.ifindex == packet.ifindex
            && recent.tick == packet.tick
    })
}
