//! Random frames: packets between known addresses, some of them damaged, and frames without IPv4.

use packet_tests::random::Random;
use packet_tests::topology::{NAMES, pod_mac};
use packet_tests::*;
use sluice_abi::program;

/// Inserts VLAN tags after the hardware addresses.
pub fn with_tags(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

/// A random packet between known addresses and few ports, so that flows, Services and fragments
/// coincide.
fn random_packet(random: &mut Random) -> Packet {
    const PORTS: [u16; 6] = [53, 80, 81, 40_000, 61_000, 61_500];
    let address = |random: &mut Random| match random.below(12) {
        0 => [random.bits() as u8, random.bits() as u8, random.bits() as u8, 1],
        1 => [10, 96, 0, random.below(60) as u8],
        2 => [10, 244, 1, random.below(30) as u8],
        _ => random.pick(&NAMES).1,
    };
    let (src, dst) = (address(random), address(random));
    let (from, to) = ((src, *random.pick(&PORTS)), (dst, *random.pick(&PORTS)));
    let payload: Vec<u8> = (0..random.below(60)).map(|_| random.bits() as u8).collect();
    let id = *random.pick(&PORTS);
    let mut packet = match random.below(10) {
        0..=2 => Packet::tcp(from, to, *random.pick(&[2, 16, 18, 17, 4]), &payload),
        3..=5 => Packet::udp(from, to, &payload),
        6 => Packet::sctp(from, to, &payload),
        7 => Packet::echo(src, dst, *random.pick(&[0, 8, 13]), id, &payload),
        8 => {
            let quoted = Packet::udp(to, from, b"quoted");
            let kind = *random.pick(&[3, 4, 5, 11, 12]);
            Packet::icmp_error(src, dst, (kind, random.below(5) as u8, 0), &quoted, random.below(9))
        }
        _ => Packet::new(src, dst, random.bits() as u8, payload),
    };
    packet.ttl = *random.pick(&[0, 1, 2, 64, 255]);
    packet.options = vec![1; random.pick(&[0, 0, 0, 4, 40]).to_owned()];
    if random.below(6) == 0 && packet.body.len() > 16 {
        packet = packet.fragment(random.below(3) as u16 * 8, 8 + random.below(16));
    }
    packet
}

/// A frame without IPv4: ARP between known addresses, IPv6, another protocol.
fn random_other_frame(random: &mut Random) -> Vec<u8> {
    let mac = |random: &mut Random| pod_mac(*random.pick(&[CLIENT, CLIENT, SERVER]));
    let address = |random: &mut Random| *random.pick(&[CLIENT, CLIENT, SERVER, GATEWAY, [0; 4]]);
    let (source, sender) = (mac(random), mac(random));
    let operation = 1 + random.below(3) as u8;
    let mut frame = arp(source, operation, sender, address(random), address(random));
    match random.below(4) {
        0 => {
            // The header of an IPv6 packet, then random bytes.
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            frame.resize(14 + 40 + random.below(40), random.bits() as u8);
        }
        1 => frame[12..14].copy_from_slice(&(random.bits() as u16).to_be_bytes()),
        _ => {}
    }
    frame
}

/// A random packet, one with some bytes changed, cut off or added, or a frame without IPv4.
pub fn random_frame(random: &mut Random, program: &str) -> Vec<u8> {
    if random.below(10) == 0 {
        return random_other_frame(random);
    }
    let packet = random_packet(random);
    let mut frame = match program {
        program::FROM_POD => packet.bytes_from_pod(CLIENT_IFINDEX),
        _ => packet.bytes_from_wire(),
    };
    match random.below(6) {
        4 => return with_tags(&frame, &[[0x81, 0, 0, random.below(3) as u8]]),
        5 => {
            for _ in 0..1 + random.below(4) {
                let at = random.below(14);
                frame[at] = random.bits() as u8;
            }
        }
        0 => {
            for _ in 0..1 + random.below(4) {
                let at = 14 + random.below(frame.len().min(60) - 14);
                frame[at] = random.bits() as u8;
            }
        }
        1 => frame.truncate(14 + random.below(frame.len() - 13)),
        2 => frame.resize(frame.len() + random.below(20), 0),
        _ => {}
    }
    frame
}
