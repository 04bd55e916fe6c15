//! A client that sends all the time and needs no answer: datagrams from one socket and from new ones, and
//! the first segments of connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use netns_tests::peer::SprayReport;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

use crate::print_line;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(4);

/// Sends from `port`, and from new ports, to the UDP port and the TCP port of an address until the standard
/// input ends. What cannot be sent, such as without an interface, is not counted. A line of input with a
/// number n asks for the line `sprayed` once the smallest of the three counts has grown by more than n.
pub fn spray(port: u16, udp: &str, tcp: &str) -> SprayReport {
    let udp: SocketAddr = udp.parse().unwrap();
    let tcp: SocketAddrV4 = tcp.parse().unwrap();
    let same = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let (sender, input) = mpsc::channel::<u64>();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line.parse().unwrap());
        }
    });
    print_line("spraying");
    let mut report = SprayReport::default();
    let mut awaited = None;
    loop {
        match input.recv_timeout(PAUSE) {
            Ok(more) => awaited = Some(report.least() + more),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return report,
        }
        report.same_socket += u64::from(same.send_to(b"spray", udp).is_ok());
        let another = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        report.new_sockets += u64::from(another.send_to(b"spray", udp).is_ok());
        report.connections += u64::from(begin_connection(tcp));
        if awaited.is_some_and(|least| report.least() > least) {
            print_line("sprayed");
            awaited = None;
        }
    }
}

/// Sends the first segment of a connection, which ends before it is answered.
fn begin_connection(server: SocketAddrV4) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    connect(fd.as_raw_fd(), &SockaddrIn::from(server)) == Err(Errno::EINPROGRESS)
}
