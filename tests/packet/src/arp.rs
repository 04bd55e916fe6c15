//! ARP messages.

use crate::topology::HOST_MAC;

/// An ARP message in an Ethernet frame to the host: operation, hardware address and address of the sender,
/// and the address that is asked for.
pub fn arp(
    frame_mac: [u8; 6],
    operation: u8,
    mac: [u8; 6],
    sender: [u8; 4],
    target: [u8; 4],
) -> Vec<u8> {
    let mut frame = [HOST_MAC, frame_mac].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}
