//! Headers and checksums of packets: 8 bytes of new addresses, then a packet from its IPv4 header.
//!
//! What the programs read equals a second reading, and a checksum that they update equals the one
//! computed from all bytes.

use sluice_packet::checksum::{Delta, finish, fold, sum};
use sluice_packet::ipv4::{self, Ipv4};
use sluice_packet::l4::{self, Kind};
use sluice_packet::{crc32c, icmp};

/// CRC32c polynomial, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;

pub(super) fn run(data: &[u8]) {
    let Some((new, packet)) = data.split_first_chunk::<8>() else { return };
    let Some((header, payload)) = packet.split_first_chunk::<20>() else { return };
    ipv4_header(header, new);
    if let Some(first) = payload.first_chunk::<8>() {
        ports(header[9], first);
    }
    layer4_checksum(new, payload);
    sctp_checksum(new, payload);
    let [a, b, c, d, e, f, g, h] = *new;
    let quoted = &packet[..packet.len().min(68)];
    let answer =
        icmp::port_unreachable([a, b, c, d], [e, f, g, h], quoted.len() as u16, sum(quoted));
    assert!(is_valid(&answer[..20]));
    assert!(is_valid(&[&answer[20..], quoted].concat()));
}

/// Whether a message with its checksum has the sum that receivers expect (RFC 1071), with big
/// endian words and an end-around carry.
fn is_valid(message: &[u8]) -> bool {
    let words =
        message.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0xffff) == 0
}

fn ipv4_header(header: &[u8; 20], new: &[u8; 8]) {
    let Some(view) = Ipv4::parse(header) else {
        let total = u16::from_be_bytes([header[2], header[3]]);
        let length = header[0] % 16 * 4;
        let short = total != 0 && total < u16::from(length);
        assert!(header[0] / 16 != 4 || length < 20 || short, "{header:?}");
        return;
    };
    assert!((20..=60).contains(&view.header_len) && view.header_len.is_multiple_of(4));
    assert_eq!(view.src, header[12..16]);
    assert_eq!(view.dst, header[16..20]);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    assert_eq!(view.fragment_offset, fragment % 0x2000 * 8);
    assert_eq!(view.is_fragment(), !fragment.is_multiple_of(0x4000));

    let mut changed = *header;
    [changed[10], changed[11]] = [0, 0];
    [changed[10], changed[11]] = finish(sum(&changed));
    assert!(is_valid(&changed));
    let [a, b, c, d, e, f, g, h] = *new;
    ipv4::set_addresses(&mut changed, [a, b, c, d], [e, f, g, h]);
    assert!(is_valid(&changed));
    if view.ttl > 1 {
        ipv4::decrement_ttl(&mut changed);
        assert!(is_valid(&changed));
    }
    let after = Ipv4::parse(&changed).expect("addresses and TTL do not affect the form");
    let ttl = if view.ttl > 1 { view.ttl - 1 } else { view.ttl };
    assert_eq!(after, Ipv4 { src: [a, b, c, d], dst: [e, f, g, h], ttl, ..view });
}

fn ports(protocol: u8, first: &[u8; 8]) {
    let kind = l4::kind(protocol, first[0]);
    let (source, destination) = l4::ports(kind, first);
    match protocol {
        6 | 17 | 132 => {
            assert_eq!(
                (source.0.as_slice(), destination.0.as_slice()),
                (&first[..2], &first[2..4])
            );
        }
        1 => assert!(matches!(kind, Kind::Echo | Kind::IcmpError | Kind::Other)),
        _ => assert_eq!(kind, Kind::Other),
    }
    if kind == Kind::Echo {
        let identifier = if first[0] == icmp::ECHO_REQUEST { source } else { destination };
        assert_eq!(identifier.0, first[4..6]);
    }
    if let Some((offset, _)) = l4::checksum(kind) {
        assert!(offset + 2 <= u32::from(l4::min_len(protocol)));
    }
}

/// A checksum at offset 0 that covers the first bytes of `payload`, which change to `new`.
fn layer4_checksum(new: &[u8; 8], payload: &[u8]) {
    let Some((old, rest)) = payload.split_first_chunk::<8>() else { return };
    let words = |b: &[u8; 8]| [[b[0], b[1], b[2], b[3]], [b[4], b[5], b[6], b[7]]];
    let ([old_first, old_last], [new_first, new_last]) = (words(old), words(new));
    let delta = Delta::NONE.quad(old_first, new_first);
    let delta = delta.plus(Delta::NONE.quad(old_last, new_last));
    let field = finish(sum(payload));
    assert!(is_valid(&[&field, payload].concat()));
    assert_eq!(fold(sum(payload) + sum(&field)), 0xffff);
    let field = delta.apply(field);
    assert!(is_valid(&[&field, new.as_slice(), rest].concat()));
}

/// The ports of an SCTP packet change to the first four bytes of `new`.
fn sctp_checksum(new: &[u8; 8], payload: &[u8]) {
    let Some((header, chunks)) = payload.split_first_chunk::<12>() else { return };
    let Ok(length) = u16::try_from(payload.len()) else { return };
    let (old, new) =
        ([header[0], header[1], header[2], header[3]], [new[0], new[1], new[2], new[3]]);
    let crc = |ports: [u8; 4]| {
        let message = [&ports, &header[4..8], &[0; 4], chunks].concat();
        let register = message.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 }
            })
        });
        (!register).to_le_bytes()
    };
    let delta = crc32c::ports_delta(old, new, length);
    let (before, after) = (crc(old), crc(new));
    assert_eq!([0, 1, 2, 3].map(|i| before[i] ^ delta[i]), after);
}
