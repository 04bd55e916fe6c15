//! Building and reading packets, slowly and plainly: an independent model of the wire formats.

use std::fmt::Write;

use sluice_abi::proto;

/// The Internet checksum over `bytes` (RFC 1071), by the book.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet in the making. Every field can be set wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// More fragments.
    pub more_fragments: bool,
    /// Fragment offset in bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// IP options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Protocol number.
    pub proto: u8,
    /// Everything behind the IP header; checksums are set by [`Packet::bytes`].
    pub body: Vec<u8>,
}

impl Packet {
    fn new(src: [u8; 4], dst: [u8; 4], proto: u8, body: Vec<u8>) -> Packet {
        Packet {
            src,
            dst,
            ttl: 64,
            id: 0x1234,
            more_fragments: false,
            fragment_offset: 0,
            options: Vec::new(),
            proto,
            body,
        }
    }

    /// A TCP segment with `flags` (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
    pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Packet {
        let mut body = Vec::new();
        body.extend(from.1.to_be_bytes());
        body.extend(to.1.to_be_bytes());
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(payload);
        Packet::new(from.0, to.0, proto::TCP, body)
    }

    /// A UDP datagram.
    pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Packet {
        let mut body = Vec::new();
        body.extend(from.1.to_be_bytes());
        body.extend(to.1.to_be_bytes());
        body.extend((8 + payload.len() as u16).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        Packet::new(from.0, to.0, proto::UDP, body)
    }

    /// An SCTP packet with a checksum of the given bytes (CRC32c is the test's business).
    pub fn sctp(from: ([u8; 4], u16), to: ([u8; 4], u16), crc: [u8; 4], chunk: &[u8]) -> Packet {
        let mut body = Vec::new();
        body.extend(from.1.to_be_bytes());
        body.extend(to.1.to_be_bytes());
        body.extend([0, 0, 0, 9]);
        body.extend(crc);
        body.extend(chunk);
        Packet::new(from.0, to.0, proto::SCTP, body)
    }

    /// An ICMP echo request (type 8) or reply (type 0).
    pub fn echo(src: [u8; 4], dst: [u8; 4], kind: u8, id: u16) -> Packet {
        let mut body = vec![kind, 0, 0, 0];
        body.extend(id.to_be_bytes());
        body.extend([0, 1]);
        body.extend(b"0123456789abcdef");
        Packet::new(src, dst, proto::ICMP, body)
    }

    /// An ICMP error about `about`: its IP header and first eight bytes come along (RFC 792).
    pub fn icmp_error(
        src: [u8; 4],
        dst: [u8; 4],
        (kind, code, rest): (u8, u8, u32),
        about: &Packet,
    ) -> Packet {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        let inner = about.ip_bytes();
        body.extend(&inner[..(20 + about.options.len() + 8).min(inner.len())]);
        Packet::new(src, dst, proto::ICMP, body)
    }

    /// Turns this packet into a fragment: `bytes` from `offset` on.
    #[must_use]
    pub fn fragment(&self, offset: u16, bytes: usize) -> Packet {
        let whole = self.with_checksums().body;
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

    /// Source port, where there is one.
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Destination port, where there is one.
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.body[2], self.body[3]])
    }

    fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }

    /// A copy whose body carries right checksums (not for SCTP, nor for fragments).
    fn with_checksums(&self) -> Packet {
        let mut copy = self.clone();
        let place = match self.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            proto::ICMP => 2,
            _ => return copy,
        };
        if copy.body.len() < place + 2 || self.is_fragment() {
            return copy;
        }
        copy.body[place..place + 2].fill(0);
        let mut covered = Vec::new();
        if self.proto != proto::ICMP {
            covered.extend(self.src);
            covered.extend(self.dst);
            covered.extend([0, self.proto]);
            covered.extend((self.body.len() as u16).to_be_bytes());
        }
        covered.extend(&copy.body);
        let sum = match checksum(&covered) {
            0 if self.proto == proto::UDP => 0xffff,
            sum => sum,
        };
        copy.body[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        copy
    }

    /// The packet from its IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + self.body.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        let fragment = (u16::from(self.more_fragments) << 13) | (self.fragment_offset / 8);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.proto, 0, 0]);
        bytes.extend(self.src);
        bytes.extend(self.dst);
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.with_checksums().body);
        bytes
    }

    /// The whole frame; hardware addresses are the veth's, which programs rewrite anyway.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 1, 0xee, 2, 0, 0, 0, 1, 0x10, 8, 0];
        frame.extend(self.ip_bytes());
        frame
    }

    /// Reads a frame back, and says what is wrong with its lengths or checksums.
    ///
    /// # Errors
    /// One sentence about the first thing that is wrong.
    pub fn read(frame: &[u8]) -> Result<Packet, String> {
        let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0]).ok_or("no IPv4 frame")?;
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if ip[0] >> 4 != 4 || header < 20 || ip.len() < total || total < header {
            return Err(format!("IP header of {header} bytes, {total} in all, {} there", ip.len()));
        }
        if checksum(&ip[..header]) != 0 {
            return Err("IP header checksum".to_owned());
        }
        let flags = u16::from_be_bytes([ip[6], ip[7]]);
        let packet = Packet {
            src: [ip[12], ip[13], ip[14], ip[15]],
            dst: [ip[16], ip[17], ip[18], ip[19]],
            ttl: ip[8],
            id: u16::from_be_bytes([ip[4], ip[5]]),
            more_fragments: flags & 0x2000 != 0,
            fragment_offset: (flags & 0x1fff) * 8,
            options: ip[20..header].to_vec(),
            proto: ip[9],
            body: ip[header..total].to_vec(),
        };
        // A UDP checksum of zero means that there is none (RFC 768).
        let none = packet.proto == proto::UDP && packet.body.get(6..8) == Some(&[0, 0]);
        if !packet.is_fragment() && !none && packet.with_checksums().body != packet.body {
            return Err(format!("checksum of protocol {}", packet.proto));
        }
        Ok(packet)
    }
}

/// Bytes as people compare them.
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
