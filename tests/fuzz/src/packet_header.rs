//! Headers and checksums of packets: 8 bytes of new addresses, then a packet from its IPv4 header.
//!
//! What the programs read equals a second reading, and a checksum that they update equals the one
//! computed from all bytes.

use sluice_abi::Addr;
use sluice_packet::checksum::{Delta, finish, fold, sum};
use sluice_packet::ip::{Fields, Fragment, Header};
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
    let (src, dst) = addresses(new);
    let quoted = &packet[..packet.len().min(68)];
    let answer =
        icmp::error(&src, &dst, icmp::Error::PORT_UNREACHABLE, quoted.len() as u16, sum(quoted));
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

/// Two IPv4 addresses.
fn addresses(bytes: &[u8; 8]) -> (Addr, Addr) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (Addr::v4([a, b, c, d]), Addr::v4([e, f, g, h]))
}

fn ipv4_header(header: &[u8; 20], new: &[u8; 8]) {
    let Some(fields) = Header(*header).parse() else {
        let total = u16::from_be_bytes([header[2], header[3]]);
        let length = header[0] % 16 * 4;
        let short = total != 0 && total < u16::from(length);
        assert!(header[0] / 16 != 4 || length < 20 || short, "{header:?}");
        return;
    };
    assert!((20..=60).contains(&fields.header_len) && fields.header_len.is_multiple_of(4));
    assert_eq!(fields.src.to_v4().as_ref().map(<[u8; 4]>::as_slice), Some(&header[12..16]));
    assert_eq!(fields.dst.to_v4().as_ref().map(<[u8; 4]>::as_slice), Some(&header[16..20]));
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let expected = match (fragment % 0x2000, fragment & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    assert_eq!(fields.fragment, expected);

    let mut changed = Header(*header);
    [changed.0[10], changed.0[11]] = [0, 0];
    [changed.0[10], changed.0[11]] = finish(sum(&changed.0));
    assert!(is_valid(&changed.0));
    let (src, dst) = addresses(new);
    changed.set_addresses(&src, &dst);
    assert!(is_valid(&changed.0));
    let mut hop_limit = fields.hop_limit;
    if hop_limit > 1 {
        changed.decrement_hop_limit();
        hop_limit -= 1;
        assert!(is_valid(&changed.0));
    }
    let after = changed.parse().expect("addresses and hop limit do not affect the form");
    assert_eq!(after, Fields { src, dst, hop_limit, ..fields });
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
        1 => assert!(!matches!(kind, Kind::Tcp | Kind::Udp | Kind::Sctp)),
        _ => assert_eq!(kind, Kind::Other),
    }
    match kind {
        Kind::EchoRequest => assert_eq!(source.0, first[4..6]),
        Kind::EchoReply => assert_eq!(destination.0, first[4..6]),
        _ => {}
    }
    if let Some(offset) = l4::checksum_offset(kind) {
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
