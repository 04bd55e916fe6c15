//! Raw sockets: ICMP echo, and datagrams with any source address, also with a source route.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netns_tests::peer::Echo;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;

fn raw(protocol: SockProtocol) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    fd
}

/// Sends an ICMP echo request and waits for the reply until the deadline.
pub fn ping(address: &str, size: usize, deadline: Duration) -> Echo {
    let address: Ipv4Addr = address.parse().unwrap();
    let fd = raw(SockProtocol::Icmp);
    let id = u16::try_from(std::process::id() & 0xffff).unwrap();
    let mut request = vec![ECHO_REQUEST, 0, 0, 0];
    request.extend(id.to_be_bytes());
    request.extend(1u16.to_be_bytes());
    request.extend((0..size).map(|i| (i % 251) as u8));
    let sum = checksum(&request);
    request[2..4].copy_from_slice(&sum.to_be_bytes());

    let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
    match sendto(fd.as_raw_fd(), &request, &to, MsgFlags::empty()) {
        Ok(_) => {}
        // The local stack returns what a router reports by ICMP.
        Err(Errno::ENETUNREACH) => return Echo::Error(UNREACHABLE, 0),
        Err(Errno::EHOSTUNREACH) => return Echo::Error(UNREACHABLE, 1),
        Err(e) => panic!("ping {address}: {e}"),
    }
    let start = Instant::now();
    let mut buffer = vec![0; 65_536];
    while start.elapsed() < deadline {
        let Ok(length) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
        // A raw socket receives the IP header too, and the ICMP packets of all programs.
        let packet = &buffer[..length];
        let icmp = &packet[usize::from(packet[0] & 0x0f) * 4..];
        match icmp {
            [ECHO_REPLY, _, _, _, a, b, ..] if [*a, *b] == id.to_be_bytes() => {
                assert_eq!(checksum(icmp), 0, "checksum of the reply");
                assert_eq!(icmp[8..], request[8..], "data of the reply");
                return Echo::Reply(icmp.len() - 8);
            }
            [kind @ (UNREACHABLE | TIME_EXCEEDED), code, ..] if quotes(icmp, address, id) => {
                return Echo::Error(*kind, *code);
            }
            _ => {}
        }
    }
    Echo::Timeout
}

/// Whether an ICMP error quotes the echo request to `address`.
fn quotes(icmp: &[u8], address: Ipv4Addr, id: u16) -> bool {
    let Some(inner) = icmp.get(8..) else { return false };
    let length = inner.first().map_or(0, |b| usize::from(b & 0x0f) * 4);
    inner.get(16..20) == Some(&address.octets())
        && inner.get(length + 4..length + 6) == Some(&id.to_be_bytes())
}

/// Sends a datagram; with `route` by `destination` to the address `route` (loose source route, RFC 791).
pub fn send_from(source: &str, destination: &str, route: Option<&str>) {
    let source: Ipv4Addr = source.parse().unwrap();
    let option = route.map_or_else(Vec::new, |address| {
        let address: Ipv4Addr = address.parse().unwrap();
        [&[131, 7, 4][..], &address.octets(), &[0]].concat()
    });
    let destination: SocketAddrV4 = destination.parse().unwrap();
    let data = b"data";
    let header = 20 + option.len();
    let datagram = u16::try_from(8 + data.len()).unwrap();
    let length = u16::try_from(header).unwrap() + datagram;
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(length.to_be_bytes());
    // Identification, flags, TTL, UDP; the kernel fills in the header checksum.
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.ip().octets());
    packet.extend(option);
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend(datagram.to_be_bytes());
    // UDP over IPv4 may omit the checksum.
    packet.extend([0, 0]);
    packet.extend(data);
    let to = SockaddrIn::from(destination);
    let sent = sendto(raw(SockProtocol::Raw).as_raw_fd(), &packet, &to, MsgFlags::empty());
    sent.map_err(io::Error::from).unwrap();
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
