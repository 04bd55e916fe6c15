//! Where the layer 4 protocols keep their ports and checksums, as a table.

use sluice_abi::{PortBe, proto};

use crate::icmp;

/// What a program must know of a protocol to follow and translate its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP: ports, 16-bit checksum over a pseudo header.
    Tcp = 1,
    /// UDP: ports, 16-bit checksum over a pseudo header, 0 for "none".
    Udp = 2,
    /// SCTP: ports, CRC32c without pseudo header.
    Sctp = 3,
    /// ICMP echo request or reply: an identifier, checksum without pseudo header.
    Echo = 4,
    /// ICMP that quotes another packet.
    IcmpError = 5,
    /// Anything else: addresses only.
    Other = 6,
}

/// Bytes that must be there for each protocol; 0 for protocols without ports.
#[inline(always)]
pub const fn min_len(protocol: u8) -> u16 {
    match protocol {
        proto::TCP => 20,
        proto::UDP => 8,
        proto::SCTP => 12,
        proto::ICMP => 8,
        _ => 0,
    }
}

/// The kind of a packet by its protocol number and the first byte after the IP header.
#[inline(always)]
pub const fn kind(protocol: u8, first: u8) -> Kind {
    match protocol {
        proto::TCP => Kind::Tcp,
        proto::UDP => Kind::Udp,
        proto::SCTP => Kind::Sctp,
        proto::ICMP if icmp::is_echo(first) => Kind::Echo,
        proto::ICMP if icmp::is_error(first) => Kind::IcmpError,
        _ => Kind::Other,
    }
}

/// Source and destination port by the first 8 bytes after the IP header, as they stand in a flow's
/// key: an echo request has its identifier as source port, a reply as destination port.
#[inline(always)]
pub const fn ports(kind: Kind, b: &[u8; 8]) -> (PortBe, PortBe) {
    match kind {
        Kind::Tcp | Kind::Udp | Kind::Sctp => (PortBe([b[0], b[1]]), PortBe([b[2], b[3]])),
        Kind::Echo if b[0] == icmp::ECHO_REQUEST => (PortBe([b[4], b[5]]), PortBe([0, 0])),
        Kind::Echo => (PortBe([0, 0]), PortBe([b[4], b[5]])),
        Kind::IcmpError | Kind::Other => (PortBe([0, 0]), PortBe([0, 0])),
    }
}

/// Offset of the 16-bit checksum and whether it covers a pseudo header.
#[inline(always)]
pub const fn checksum(kind: Kind) -> Option<(u32, bool)> {
    match kind {
        Kind::Tcp => Some((16, true)),
        Kind::Udp => Some((6, true)),
        Kind::Echo | Kind::IcmpError => Some((2, false)),
        Kind::Sctp | Kind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_identifier_stands_on_the_side_of_who_asks() {
        let request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let reply = [0, 0, 0, 0, 0x12, 0x34, 0, 1];
        let id = PortBe([0x12, 0x34]);
        assert_eq!(ports(kind(1, 8), &request), (id, PortBe([0, 0])));
        assert_eq!(ports(kind(1, 0), &reply), (PortBe([0, 0]), id));
    }

    #[test]
    fn timestamp_requests_are_neither_echo_nor_error() {
        assert_eq!(kind(1, 13), Kind::Other);
        assert_eq!(kind(1, 3), Kind::IcmpError);
        assert_eq!(kind(47, 8), Kind::Other);
    }
}
