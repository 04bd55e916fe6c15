//! Layer 4 protocols: offsets of ports and checksums.

use sluice_abi::{PortBe, proto};

use crate::icmp;

/// Classes of packets that are tracked and translated in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP: ports, 16-bit checksum over a pseudo header.
    Tcp = 1,
    /// UDP: ports, 16-bit checksum over a pseudo header, 0 for "none".
    Udp = 2,
    /// SCTP: ports, CRC32c without pseudo header.
    Sctp = 3,
    /// ICMP echo request: an identifier as source port, checksum without pseudo header.
    EchoRequest = 4,
    /// ICMP echo reply: an identifier as destination port, checksum without pseudo header.
    EchoReply = 5,
    /// An ICMP message that quotes another packet.
    IcmpError = 6,
    /// Any other protocol: addresses only.
    Other = 0,
}

impl Kind {
    /// Whether a new source port can be given to the first packet of a flow.
    #[inline(always)]
    pub const fn has_source_port(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Udp | Kind::Sctp | Kind::EchoRequest)
    }
}

/// Minimum length in bytes of a header; 0 for protocols without ports.
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

/// Length in bytes of a TCP header, options included, by its byte 12.
#[inline(always)]
pub const fn tcp_header_len(data_offset: u8) -> u32 {
    let len = (data_offset >> 4) as u32 * 4;
    let min = min_len(proto::TCP) as u32;
    if len < min { min } else { len }
}

/// The kind of a packet by its protocol number and the first byte after the IP header.
#[inline(always)]
pub const fn kind(protocol: u8, first: u8) -> Kind {
    match protocol {
        proto::TCP => Kind::Tcp,
        proto::UDP => Kind::Udp,
        proto::SCTP => Kind::Sctp,
        proto::ICMP if first == icmp::ECHO_REQUEST => Kind::EchoRequest,
        proto::ICMP if first == icmp::ECHO_REPLY => Kind::EchoReply,
        proto::ICMP if icmp::is_error(first) => Kind::IcmpError,
        _ => Kind::Other,
    }
}

/// The kind of a later fragment, which has no layer 4 header. ICMP errors are too short to be
/// fragmented, and both echo messages are translated in the same way without header.
#[inline(always)]
pub const fn kind_of_later_fragment(protocol: u8) -> Kind {
    kind(protocol, icmp::ECHO_REQUEST)
}

/// Source and destination port of a flow key, by the first 8 bytes after the IP header.
#[inline(always)]
pub const fn ports(kind: Kind, b: &[u8; 8]) -> (PortBe, PortBe) {
    match kind {
        Kind::Tcp | Kind::Udp | Kind::Sctp => (PortBe([b[0], b[1]]), PortBe([b[2], b[3]])),
        Kind::EchoRequest => (PortBe([b[4], b[5]]), PortBe([0, 0])),
        Kind::EchoReply => (PortBe([0, 0]), PortBe([b[4], b[5]])),
        Kind::IcmpError | Kind::Other => (PortBe([0, 0]), PortBe([0, 0])),
    }
}

/// Whether a packet opens an SCTP association, by the first 8 bytes after the IP header: only a packet with an INIT
/// chunk, which has no other one, has the verification tag 0 (RFC 9260 section 8.5.1).
#[inline(always)]
pub const fn is_sctp_init(kind: Kind, b: &[u8; 8]) -> bool {
    matches!(kind, Kind::Sctp) && u32::from_be_bytes([b[4], b[5], b[6], b[7]]) == 0
}

/// Offset of the 16-bit checksum in the layer 4 header.
#[inline(always)]
pub const fn checksum_offset(kind: Kind) -> Option<u32> {
    match kind {
        Kind::Tcp => Some(TCP_CHECKSUM),
        Kind::Udp => Some(6),
        Kind::EchoRequest | Kind::EchoReply | Kind::IcmpError => Some(2),
        Kind::Sctp | Kind::Other => None,
    }
}

/// Offset of TCP's checksum.
pub const TCP_CHECKSUM: u32 = 16;
/// Offset of SCTP's CRC32c.
pub const SCTP_CHECKSUM: u32 = 8;
/// Offset of the identifier in an ICMP echo.
pub const ECHO_ID: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_identifier_is_the_port_of_the_requesting_side() {
        let request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let reply = [0, 0, 0, 0, 0x12, 0x34, 0, 1];
        let id = PortBe([0x12, 0x34]);
        assert_eq!(ports(kind(1, 8), &request), (id, PortBe([0, 0])));
        assert_eq!(ports(kind(1, 0), &reply), (PortBe([0, 0]), id));
    }

    #[test]
    fn tcp_header_is_never_shorter_than_without_options() {
        for (byte, len) in [(0x50, 20), (0x5f, 20), (0x80, 32), (0xf0, 60), (0x40, 20), (0, 20)] {
            assert_eq!(tcp_header_len(byte), len, "{byte:#x}");
        }
    }

    #[test]
    fn timestamp_requests_are_neither_echo_nor_error() {
        assert_eq!(kind(1, 13), Kind::Other);
        assert_eq!(kind(1, 3), Kind::IcmpError);
        assert_eq!(kind(47, 8), Kind::Other);
    }

    #[test]
    fn only_the_requesting_side_of_an_echo_has_a_source_port() {
        assert!(Kind::EchoRequest.has_source_port());
        assert!(!Kind::EchoReply.has_source_port());
        assert!(!kind(47, 0).has_source_port());
        assert!(kind_of_later_fragment(1).has_source_port());
        assert!(kind_of_later_fragment(17).has_source_port());
    }
}
