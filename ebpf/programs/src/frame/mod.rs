//! Access to packets: one trait, and an implementation per kind of program context.

use core::ffi::c_void;

use sluice_packet::checksum::Delta;
use sluice_packet::l4::Kind;

mod skb;
mod xdp;

pub use skb::Skb;
pub use xdp::Xdp;

/// The part of a checksummed message that changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The pseudo header: the part that the kernel has already summed in a packet whose checksum
    /// the device completes.
    PseudoHeader,
    /// The message itself.
    Message,
}

/// A packet, with its metadata, at a hook.
///
/// Offsets count from the first byte of the Ethernet header. Functions that return `bool` return
/// `false` if the packet ends before the requested bytes, and then change nothing.
pub trait Frame {
    /// The program context, for helpers that take contexts of any kind.
    fn context(&self) -> *mut c_void;

    /// Length in bytes.
    fn len(&self) -> u32;

    /// Interface index of the hook.
    fn ifindex(&self) -> u32;

    /// Whether a VLAN tag was removed from the frame into its metadata.
    fn has_vlan_tag(&self) -> bool;

    /// Payload bytes per segment if the kernel segments this packet on transmission, 0 otherwise.
    fn segment_len(&self) -> u32;

    /// Reads N bytes.
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool;

    /// Writes N bytes. Checksums remain as they are.
    fn store<const N: usize>(&self, offset: u32, from: &[u8; N]) -> bool;

    /// Updates the 16-bit checksum at `offset` of a message of this kind.
    fn update_checksum(&self, offset: u32, delta: Delta, changed: Changed, kind: Kind) -> bool;
}
