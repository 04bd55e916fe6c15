//! Stages that access packets as global functions.
//!
//! The verifier proves a global function once, by itself, instead of once per path that leads to
//! it; its arguments are the context and pointers to sized values. Stages are generic over the kind
//! of frame, and global functions cannot be, so that each kind of frame has its own set here.

mod skb;
mod xdp;

use sluice_abi::FlowKey;
use sluice_packet::Headers;

use crate::flow::{Destination, Flow};
use crate::frame::Frame;
use crate::kernel::{NextHop, Route};
use crate::packet::Packet;
use crate::scratch::Quoted;
use crate::stage::nat::Change;

/// Frames with a set of global functions.
pub trait Outlined: Frame {
    /// Whether a packet can be forwarded only to a next hop whose hardware address is known.
    const NEEDS_NEIGHBOUR: bool;

    /// [`crate::stage::nat::rewrite`].
    fn rewrite(&self, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> Change;

    /// [`crate::kernel::route`] of a packet with `len` bytes, from the interface of the hook to the
    /// translated destination. As in the stack, the source is that before translation.
    fn route(&self, packet: &Packet, translated: &FlowKey, len: u32, hop: &mut NextHop) -> Route;

    /// Whether a socket of the node would receive the replies of this flow, whose source is the node.
    fn node_uses(&self, tuple: &FlowKey) -> bool;

    /// Whether a socket of the node is connected to the sender of a packet with this tuple.
    fn node_is_connected(&self, tuple: &FlowKey) -> bool;

    /// Whether the sender of a packet is the next hop of a route to the packet's source.
    fn is_from_next_hop(&self, packet: &Packet, headers: &Headers) -> bool;

    /// [`crate::stage::conntrack::open_flow`].
    fn open_flow(&self, packet: &Packet, flow: &mut Flow, destination: &Destination) -> u32;

    /// Whether a device has received the packet: the stack forwards it.
    fn has_come_in(&self) -> bool;

    /// Returns and clears the mark of another version's program.
    fn take_mark(&self) -> u32;

    /// [`crate::stage::icmp::restore`].
    fn restore_error(
        &self,
        packet: &Packet,
        headers: &mut Headers,
        quoted: &mut Quoted,
        translated: &mut FlowKey,
    ) -> bool;
}
