//! ARP for IPv4 over Ethernet (RFC 826).

use sluice_abi::Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length in bytes of a message.
pub const LEN: usize = 28;

/// The bytes of a message.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Message(pub [u8; LEN]);

/// The fields that identify the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Hardware address.
    pub mac: [u8; 6],
    /// The protocol address that the message is about: the sender's, or, in a probe (RFC 5227),
    /// which has no sender's address, the one that the sender is about to use.
    pub addr: Addr,
}

impl Message {
    /// The sender. `None`: not IPv4 over Ethernet, or neither request nor reply.
    #[inline(always)]
    pub fn sender(&self) -> Option<Sender> {
        let b = &self.0;
        let is_ipv4_over_ethernet = matches!(b, [0, 1, 8, 0, 6, 4, 0, 1 | 2, ..]);
        if !is_ipv4_over_ethernet {
            return None;
        }
        let mac = [b[8], b[9], b[10], b[11], b[12], b[13]];
        let addr = match [b[14], b[15], b[16], b[17]] {
            [0, 0, 0, 0] => [b[24], b[25], b[26], b[27]],
            sender => sender,
        };
        Some(Sender { mac, addr: Addr::v4(addr) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Message {
        let mut b = [0; LEN];
        b[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        b[8..14].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        b[14..18].copy_from_slice(&sender);
        b[24..28].copy_from_slice(&target);
        Message(b)
    }

    #[test]
    fn request_and_reply_have_the_address_of_their_sender_and_a_probe_that_of_its_target() {
        for (operation, sender, expected) in [
            (1, [10, 0, 0, 1], [10, 0, 0, 1]),
            (2, [10, 0, 0, 1], [10, 0, 0, 1]),
            (1, [0; 4], [10, 0, 0, 2]),
        ] {
            let message = message(operation, sender, [10, 0, 0, 2]);
            let expected = Sender { mac: [2, 0, 0, 0, 0, 9], addr: Addr::v4(expected) };
            assert_eq!(message.sender(), Some(expected));
        }
    }

    #[test]
    fn other_operations_protocols_and_lengths_have_no_sender() {
        for (at, value) in [(0, 1), (1, 6), (2, 0x86), (3, 1), (4, 8), (5, 16), (6, 1), (7, 3)] {
            let mut message = message(1, [10, 0, 0, 1], [10, 0, 0, 2]);
            message.0[at] = value;
            assert_eq!(message.sender(), None, "byte {at}");
        }
    }
}
