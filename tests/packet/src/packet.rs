//! Builds and reads IPv4 packets without any code of the programs.

use std::fmt::Write;

use sluice_abi::proto;

use crate::checksum;
use crate::topology::{
    CLIENT, FAR_POD, HOST_MAC, OTHER_NODE, OTHER_NODE_MAC, ROUTER_MAC, SERVER, SERVER_IFINDEX,
    pod_mac,
};

/// Bytes of the Ethernet header.
const ETH_LEN: usize = 14;
/// Hardware address of the sender of an input frame.
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x10];

/// How the layer 4 checksum of a packet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Checksum {
    /// Computed.
    Computed,
    /// Zero: "no checksum" for UDP (RFC 768), "left to the device" for SCTP.
    Zero,
}

/// An IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments.
    pub more_fragments: bool,
    /// Fragment offset in bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// IP options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Protocol number.
    pub proto: u8,
    /// Everything after the IP header; [`Packet::bytes`] writes the checksum.
    pub body: Vec<u8>,
    /// How that checksum is written.
    pub checksum: L4Checksum,
}

impl Packet {
    /// A packet with this protocol number and body.
    pub fn new(src: [u8; 4], dst: [u8; 4], proto: u8, body: Vec<u8>) -> Packet {
        Packet {
            src,
            dst,
            tos: 0,
            ttl: 64,
            id: 0x1234,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            options: Vec::new(),
            proto,
            body,
            checksum: L4Checksum::Computed,
        }
    }

    /// A TCP segment with `flags` (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
    pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Packet {
        let mut body = ports(from.1, to.1);
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(payload);
        Packet::new(from.0, to.0, proto::TCP, body)
    }

    /// A UDP datagram.
    pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Packet {
        let mut body = ports(from.1, to.1);
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        Packet::new(from.0, to.0, proto::UDP, body)
    }

    /// An SCTP packet with the bytes of its chunks.
    pub fn sctp(from: ([u8; 4], u16), to: ([u8; 4], u16), chunks: &[u8]) -> Packet {
        let mut body = ports(from.1, to.1);
        body.extend([0, 0, 0, 9, 0, 0, 0, 0]);
        body.extend(chunks);
        Packet::new(from.0, to.0, proto::SCTP, body)
    }

    /// An ICMP echo request (type 8) or reply (type 0).
    pub fn echo(src: [u8; 4], dst: [u8; 4], kind: u8, id: u16, payload: &[u8]) -> Packet {
        let mut body = vec![kind, 0, 0, 0];
        body.extend(id.to_be_bytes());
        body.extend([0, 1]);
        body.extend(payload);
        Packet::new(src, dst, proto::ICMP, body)
    }

    /// An ICMP error that quotes the IP header and the first `bytes` bytes after it (RFC 792: 8).
    pub fn icmp_error(
        src: [u8; 4],
        dst: [u8; 4],
        (kind, code, rest): (u8, u8, u32),
        quoted: &Packet,
        bytes: usize,
    ) -> Packet {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        let inner = quoted.ip_bytes();
        body.extend(&inner[..(20 + quoted.options.len() + bytes).min(inner.len())]);
        Packet::new(src, dst, proto::ICMP, body)
    }

    /// The fragment with `bytes` bytes from `offset` on.
    #[must_use]
    pub fn fragment(&self, offset: u16, bytes: usize) -> Packet {
        let whole = self.with_checksum().body;
        let start = usize::from(offset);
        let end = (start + bytes).min(whole.len());
        let mut fragment = self.clone();
        fragment.body = whole[start..end].to_vec();
        fragment.more_fragments = end < whole.len();
        fragment.fragment_offset = offset;
        fragment
    }

    /// A copy with another TTL.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    /// Source port.
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Destination port.
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.body[2], self.body[3]])
    }

    /// Whether this is a fragment, first or later.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }

    /// A copy whose body carries the checksum. The body of a fragment is left as it is.
    fn with_checksum(&self) -> Packet {
        let mut copy = self.clone();
        let (offset, len) = match self.proto {
            proto::TCP => (16, 2),
            proto::UDP => (6, 2),
            proto::ICMP => (2, 2),
            proto::SCTP => (8, 4),
            _ => return copy,
        };
        if copy.body.len() < offset + len || self.is_fragment() {
            return copy;
        }
        copy.body[offset..offset + len].fill(0);
        if self.checksum == L4Checksum::Zero {
            return copy;
        }
        if self.proto == proto::SCTP {
            let crc = checksum::crc32c(&copy.body);
            copy.body[offset..offset + len].copy_from_slice(&crc);
            return copy;
        }
        let mut covered = Vec::new();
        if self.proto != proto::ICMP {
            covered.extend(self.src);
            covered.extend(self.dst);
            covered.extend([0, self.proto]);
            covered.extend((self.body.len() as u16).to_be_bytes());
        }
        covered.extend(&copy.body);
        let sum = match checksum::internet(&covered) {
            0 if self.proto == proto::UDP => 0xffff,
            sum => sum,
        };
        copy.body[offset..offset + len].copy_from_slice(&sum.to_be_bytes());
        copy
    }

    /// The packet from its IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend(((header + self.body.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        let fragment = (u16::from(self.dont_fragment) << 14)
            | (u16::from(self.more_fragments) << 13)
            | (self.fragment_offset / 8);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.proto, 0, 0]);
        bytes.extend(self.src);
        bytes.extend(self.dst);
        bytes.extend(&self.options);
        let sum = checksum::internet(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.with_checksum().body);
        bytes
    }

    /// The frame with these hardware addresses.
    pub fn frame(&self, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
        let mut frame = [&dst[..], &src[..], &[8, 0]].concat();
        frame.extend(self.ip_bytes());
        frame
    }

    /// The frame as a pod or a router sends it to the node.
    pub fn bytes(&self) -> Vec<u8> {
        self.frame(HOST_MAC, SENDER_MAC)
    }

    /// The frame as the pod behind the host device `ifindex` sends it.
    pub fn bytes_from_pod(&self, ifindex: u32) -> Vec<u8> {
        let pod = if ifindex == SERVER_IFINDEX { SERVER } else { CLIENT };
        self.frame(HOST_MAC, pod_mac(pod))
    }

    /// The frame as the uplink receives it: from the other node if that has the source, and from
    /// the router if not.
    pub fn bytes_from_wire(&self) -> Vec<u8> {
        let is_of_other_node = self.src[..3] == FAR_POD[..3] || self.src == OTHER_NODE;
        self.frame(HOST_MAC, if is_of_other_node { OTHER_NODE_MAC } else { ROUTER_MAC })
    }

    /// Reads a frame; bytes after the IP packet are ignored.
    ///
    /// # Errors
    /// The frame is not IPv4, its lengths contradict each other, or a checksum is wrong.
    pub fn read(frame: &[u8]) -> Result<Packet, String> {
        let ip = frame.get(ETH_LEN..).filter(|ip| frame[12..14] == [8, 0] && ip.len() >= 20);
        let ip = ip.ok_or("not an IPv4 frame")?;
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if ip[0] >> 4 != 4 || header < 20 || ip.len() < total || total < header {
            return Err(format!(
                "IP header of {header} bytes, total length {total}, {} bytes after Ethernet",
                ip.len()
            ));
        }
        if checksum::internet(&ip[..header]) != 0 {
            return Err("wrong IP header checksum".to_owned());
        }
        let flags = u16::from_be_bytes([ip[6], ip[7]]);
        let mut packet = Packet {
            src: [ip[12], ip[13], ip[14], ip[15]],
            dst: [ip[16], ip[17], ip[18], ip[19]],
            tos: ip[1],
            ttl: ip[8],
            id: u16::from_be_bytes([ip[4], ip[5]]),
            dont_fragment: flags & 0x4000 != 0,
            more_fragments: flags & 0x2000 != 0,
            fragment_offset: (flags & 0x1fff) * 8,
            options: ip[20..header].to_vec(),
            proto: ip[9],
            body: ip[header..total].to_vec(),
            checksum: L4Checksum::Computed,
        };
        let zero = match packet.proto {
            proto::UDP => packet.body.get(6..8) == Some(&[0; 2]),
            proto::SCTP => packet.body.get(8..12) == Some(&[0; 4]),
            _ => false,
        };
        if zero {
            packet.checksum = L4Checksum::Zero;
        }
        if packet.with_checksum().body != packet.body {
            return Err(format!("wrong checksum of protocol {}", packet.proto));
        }
        Ok(packet)
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// Bytes as a hexadecimal dump.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (n, line) in bytes.chunks(16).enumerate() {
        let _ = write!(text, "\n  {:04x} ", n * 16);
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
    }
    text
}
