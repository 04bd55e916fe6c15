//! Writes the IPv4 packets of a device to a pcap file until standard input ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::capture::LINK_TYPE_RAW;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::print_line;

const SNAP_LENGTH: usize = 2048;
/// Longest time in which packets are written after the end, on a device that always has some.
const DRAIN: Duration = Duration::from_millis(500);

pub fn capture(device: &str, path: &str) -> usize {
    let socket = packet_socket(device, libc::SOCK_DGRAM);
    let mut file = File::create(path).unwrap();
    // https://www.tcpdump.org/manpages/pcap-savefile.5.html
    let mut header = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, SNAP_LENGTH as u32, LINK_TYPE_RAW] {
        header.extend(word.to_ne_bytes());
    }
    file.write_all(&header).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Release);
    });
    print_line("ready");
    let mut count = 0;
    let mut packet = [0; SNAP_LENGTH];
    let mut end = None;
    loop {
        // Packets that are queued when the input ends are still written.
        let last = ended.load(Ordering::Acquire);
        if last && *end.get_or_insert_with(Instant::now) + DRAIN < Instant::now() {
            return count;
        }
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) if packet[0] >> 4 == 4 => {
                write_packet(&mut file, &packet[..length]);
                count += 1;
            }
            // ARP, IPv6.
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR) if last => return count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => panic!("{device}: {e}"),
        }
    }
}

fn write_packet(file: &mut File, packet: &[u8]) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let length = u32::try_from(packet.len()).unwrap();
    let mut record = Vec::with_capacity(16 + packet.len());
    for word in [now.as_secs() as u32, now.subsec_micros(), length, length] {
        record.extend(word.to_ne_bytes());
    }
    record.extend(packet);
    file.write_all(&record).unwrap();
}

/// Sends an Ethernet frame, given in hexadecimal digits.
pub fn send_frame(device: &str, frame: &str) {
    let digits: Vec<char> = frame.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    let frame: Vec<u8> = digits.chunks(2).map(byte).collect();
    let socket = packet_socket(device, libc::SOCK_RAW);
    assert_eq!(send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap(), frame.len());
}

/// A packet socket bound to a device: with link-layer headers (`SOCK_RAW`) or without. Only a socket for all protocols
/// receives outgoing packets, and incoming ones before the tc programs.
fn packet_socket(device: &str, kind: i32) -> OwnedFd {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, protocol.into()) };
    let fd = Errno::result(fd).unwrap_or_else(|e| panic!("packet socket: {e}"));
    // SAFETY: the descriptor is open and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: nix::net::if_::if_nametoindex(device).unwrap() as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a valid sockaddr_ll of the length given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    Errno::result(bound).unwrap_or_else(|e| panic!("bind to {device}: {e}"));
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
    socket
}
