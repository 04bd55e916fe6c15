//! `UDP_SOCKETS`: which connected datagram sockets have an entry, and for how long.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use packet_tests::*;
use sluice_abi::{Addr, Outcome, PortBe, map, program, proto};
use sluice_bpf::Map;

/// Address of the backend; every address of 127.0.0.0/8 is local.
const ONE: [u8; 4] = [127, 0, 0, 1];
const BACKEND_PORT: u16 = 5353;
const OTHER_VIP: [u8; 4] = [10, 96, 0, 99];

struct Sockets {
    datapath: Datapath,
    map: Map<u64, sluice_abi::UdpSocket>,
    _cgroup: InCgroup,
}

/// The programs in a cgroup of the test, and two Services with one backend.
fn sockets() -> Sockets {
    let mut datapath = Datapath::node();
    let _cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    datapath.service(7, (VIP, 53, proto::UDP), &[(ONE, BACKEND_PORT)]);
    datapath.service(8, (OTHER_VIP, 53, proto::UDP), &[(ONE, BACKEND_PORT)]);
    let map = datapath.map(map::UDP_SOCKETS);
    Sockets { datapath, map, _cgroup }
}

impl Sockets {
    /// Service address and backend of the entry of a socket.
    fn entry(&self, socket: &UdpSocket) -> Option<(Addr, Addr)> {
        let entry = self.map.lookup(&cookie(socket)).unwrap()?;
        assert_eq!(entry.frontend_port, PortBe::new(53));
        assert_eq!(entry.backend_port, PortBe::new(BACKEND_PORT));
        assert_ne!(entry.netns_cookie, 0);
        Some((entry.frontend, entry.backend))
    }

    fn not_recorded(&self) -> u64 {
        let label = Outcome::SocketNotRecorded.label();
        self.datapath.counters().get(label).map_or(0, |count| count.packets)
    }
}

fn cookie(socket: &UdpSocket) -> u64 {
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes up to `len` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    cookie
}

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

fn client() -> UdpSocket {
    UdpSocket::bind(at(ONE, 0)).unwrap()
}

#[test]
fn connected_socket_has_an_entry_until_it_is_closed() {
    let t = sockets();
    let recorded = Some((Addr::v4(VIP), Addr::v4(ONE)));
    let v4 = client();
    v4.connect(at(VIP, 53)).unwrap();
    assert_eq!(t.entry(&v4), recorded);
    let v6 = UdpSocket::bind("[::]:0").unwrap();
    v6.connect(SocketAddrV6::new(Ipv4Addr::from(VIP).to_ipv6_mapped(), 53, 0, 0)).unwrap();
    assert_eq!(t.entry(&v6), recorded);
    let cookies = [&v4, &v6].map(cookie);
    drop((v4, v6));
    for cookie in cookies {
        assert_eq!(t.map.lookup(&cookie).unwrap(), None);
    }
}

#[test]
fn next_connect_replaces_or_removes_the_entry() {
    let t = sockets();
    let client = client();
    client.connect(at(VIP, 53)).unwrap();
    client.connect(at(OTHER_VIP, 53)).unwrap();
    let other = Some((Addr::v4(OTHER_VIP), Addr::v4(ONE)));
    assert_eq!(t.entry(&client), other);
    // A call that is refused leaves the socket connected.
    t.datapath.service(9, (VIP, 54, proto::UDP), &[]);
    client.connect(at(VIP, 54)).unwrap_err();
    assert_eq!(t.entry(&client), other);
    // Directly to the backend.
    client.connect(at(ONE, BACKEND_PORT)).unwrap();
    assert_eq!(t.entry(&client), None);
}

#[test]
fn sockets_that_are_not_connected_or_not_of_udp_have_none() {
    let t = sockets();
    let unconnected = client();
    unconnected.send_to(b"request", at(VIP, 53)).unwrap();
    assert_eq!(t.entry(&unconnected), None);
    // Datagrams of a connected socket to other addresses leave its entry.
    let connected = client();
    connected.connect(at(VIP, 53)).unwrap();
    connected.send_to(b"request", at(OTHER_VIP, 53)).unwrap();
    assert_eq!(t.entry(&connected), Some((Addr::v4(VIP), Addr::v4(ONE))));
    let server = TcpListener::bind(at(ONE, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    t.datapath.service(10, (VIP, 80, proto::TCP), &[(ONE, port)]);
    let _tcp = TcpStream::connect_timeout(&at(VIP, 80), Duration::from_secs(5)).unwrap();
    assert_eq!(t.map.entries().unwrap().len(), 1);
}

#[test]
fn pod_of_a_host_port_has_no_backend_id() {
    let t = sockets();
    t.datapath.host_port(([0; 4], 53, proto::UDP), (ONE, BACKEND_PORT));
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect(at(NODE, 53)).unwrap();
    assert_eq!(t.entry(&client), Some((Addr::v4(NODE), Addr::v4(ONE))));
    assert_eq!(t.map.lookup(&cookie(&client)).unwrap().unwrap().backend_id, 0);
}

#[test]
fn socket_that_does_not_fit_is_translated_and_counted() {
    let t = sockets();
    let recorded = client();
    recorded.connect(at(VIP, 53)).unwrap();
    let own = cookie(&recorded);
    let others = (1..).map(|n| u64::MAX - n).take(map::UDP_SOCKETS_MAX as usize - 1);
    for other in others {
        t.map.update(&other, &sluice_abi::UdpSocket::default()).unwrap();
    }
    let client = client();
    client.connect(at(VIP, 53)).unwrap();
    assert_eq!(client.peer_addr().unwrap(), at(VIP, 53));
    assert_eq!((t.entry(&client), t.not_recorded()), (None, 1));
    // An entry that exists is replaced.
    recorded.connect(at(OTHER_VIP, 53)).unwrap();
    assert_eq!(t.entry(&recorded), Some((Addr::v4(OTHER_VIP), Addr::v4(ONE))));
    assert_eq!((cookie(&recorded), t.not_recorded()), (own, 1));
}
