//! Two Services with one backend at the socket, from one port, and the addresses of clients on the node: real sockets in
//! a cgroup of the test. What the socket programs leave to the tc programs reaches a server with the Service's address.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use packet_tests::*;
use sluice_abi::{Frontend, NodeConfig, Outcome, frontend_flags, program, proto};

const A: [u8; 4] = [10, 96, 7, 1];
const B: [u8; 4] = [10, 96, 7, 2];
const BACKEND: [u8; 4] = [127, 0, 0, 1];
const DEADLINE: Duration = Duration::from_secs(5);

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// The test process is one of the node. It also has the addresses of the Services.
fn node() -> (Datapath, InCgroup) {
    let mut datapath = Datapath::node();
    datapath.node_config(&NodeConfig { netns_cookie: netns_cookie(), ..node_config() });
    for address in [A, B] {
        let address = format!("{}/32", std::net::Ipv4Addr::from(address));
        command::output(Command::new("ip").args(["address", "replace", &address, "dev", "lo"]));
    }
    let cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    (datapath, cgroup)
}

/// As [`node`], and the process is one of a pod.
fn pod() -> (Datapath, InCgroup) {
    let (datapath, cgroup) = node();
    datapath.node_config(&node_config());
    datapath.enter_pod(CLIENT);
    (datapath, cgroup)
}

fn server(to: SocketAddr) -> UdpSocket {
    let server = UdpSocket::bind(to).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server
}

fn client() -> UdpSocket {
    server(at([0; 4], 0))
}

/// As [`client`], with a source to which replies are not judged as requests to a Service.
fn client_on_loopback() -> UdpSocket {
    server(at([127, 0, 0, 1], 0))
}

/// The server that receives a datagram to `to` and answers it, and the source of the answer as the client sees it.
fn exchange(client: &UdpSocket, to: SocketAddr, servers: &[&UdpSocket]) -> (usize, SocketAddr) {
    client.send_to(b"request", to).unwrap();
    let mut buffer = [0; 16];
    // Loopback delivers before `send_to` returns.
    for (n, server) in servers.iter().enumerate() {
        server.set_nonblocking(true).unwrap();
        let received = server.recv_from(&mut buffer);
        server.set_nonblocking(false).unwrap();
        if let Ok((len, from)) = received {
            server.send_to(&buffer[..len], from).unwrap();
            return (n, client.recv_from(&mut buffer).unwrap().1);
        }
    }
    panic!("no server has received a datagram to {to}");
}

/// Two UDP Services with these backends.
fn services(datapath: &Datapath, backends: &[&UdpSocket]) {
    let backends: Vec<_> =
        backends.iter().map(|server| (BACKEND, server.local_addr().unwrap().port())).collect();
    datapath.service(7, (A, 53, proto::UDP), &backends);
    datapath.service(8, (B, 53, proto::UDP), &backends);
}

#[test]
fn contract_10_3_a_datagram_socket_of_a_pod_uses_two_services_of_one_backend() {
    let (datapath, _cgroup) = pod();
    let backend = server(at(BACKEND, 0));
    // In place of the tc programs.
    let by_packet = server(at(B, 53));
    services(&datapath, &[&backend]);
    let client = client_on_loopback();
    let servers = [&backend, &by_packet];
    for _ in 0..3 {
        assert_eq!(exchange(&client, at(A, 53), &servers), (0, at(A, 53)));
        assert_eq!(exchange(&client, at(B, 53), &servers), (1, at(B, 53)));
    }
    // It keeps to the tc programs, whatever the backends are.
    datapath.service(8, (B, 53, proto::UDP), &[(BACKEND, 9)]);
    assert_eq!(exchange(&client, at(B, 53), &servers), (1, at(B, 53)));
    // Without endpoints it is refused at once.
    datapath.service(8, (B, 53, proto::UDP), &[]);
    let error = client.send_to(b"request", at(B, 53)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // Other sockets are translated.
    services(&datapath, &[&backend]);
    assert_eq!(exchange(&client_on_loopback(), at(B, 53), &servers), (0, at(B, 53)));
}

#[test]
fn a_datagram_socket_of_a_pod_that_connects_to_a_second_service_of_one_backend_has_it_as_peer() {
    let (datapath, _cgroup) = pod();
    let backend = server(at(BACKEND, 0));
    let _by_packet = server(at(B, 53));
    services(&datapath, &[&backend]);
    let client = client();
    for peer in [A, B, A] {
        client.connect(at(peer, 53)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), at(peer, 53));
    }
}

/// Processes of the node have no tc program on loopback: replies have the frontend of the last request.
#[test]
fn a_datagram_socket_of_the_node_has_replies_from_the_last_service_of_a_backend() {
    let (datapath, _cgroup) = node();
    let backend = server(at(BACKEND, 0));
    services(&datapath, &[&backend]);
    let client = client();
    for service in [A, B, B, A, B] {
        assert_eq!(exchange(&client, at(service, 53), &[&backend]), (0, at(service, 53)));
    }
}

/// A TCP socket with a port, and the port of its peer's listener that it has reached.
fn connect_from(port: u16, to: SocketAddr) -> TcpStream {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at([0; 4], port))).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    // SAFETY: the descriptor is owned, and of a TCP socket.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

#[test]
fn contract_10_3_connections_of_a_pod_from_one_port_to_two_services_are_left_to_the_packet_programs()
 {
    let (datapath, _cgroup) = pod();
    let backend = TcpListener::bind(at(BACKEND, 0)).unwrap();
    let end = (BACKEND, backend.local_addr().unwrap().port());
    let by_packet = [A, B].map(|address| TcpListener::bind(at(address, 80)).unwrap());
    for (id, address) in [(7, A), (8, B)] {
        datapath.service(id, (address, 80, proto::TCP), &[end]);
    }
    // Both at the same time, by tc.
    let to_a = connect_from(44_444, at(A, 80));
    let to_b = connect_from(44_444, at(B, 80));
    for (listener, stream) in by_packet.iter().zip([&to_a, &to_b]) {
        let (_, from) = accept(listener, DEADLINE).unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
    }
    // A socket that gets its port from `connect` is translated.
    let other = TcpStream::connect_timeout(&at(A, 80), DEADLINE).unwrap();
    assert_eq!(accept(&backend, DEADLINE).unwrap().1, other.local_addr().unwrap());
    // So is one of the node.
    datapath.leave_pod();
    let of_node = connect_from(44_445, at(A, 80));
    assert_eq!(accept(&backend, DEADLINE).unwrap().1, of_node.local_addr().unwrap());
}

/// The address that session affinity knows a client by.
fn clients(datapath: &Datapath) -> Vec<sluice_abi::Addr> {
    let mut clients: Vec<_> = datapath.affinity().iter().map(|(key, _)| key.client).collect();
    clients.sort_unstable();
    clients
}

#[test]
fn a_socket_of_the_node_is_the_client_that_its_packets_come_from() {
    let (datapath, _cgroup) = node();
    let sets = Sets {
        cluster: (1..=20).map(|n| ([10, 244, 2, n], 53)).collect(),
        affinity_seconds: 600,
        ..Sets::default()
    };
    datapath.service_port(7, proto::UDP, &sets);
    datapath.frontend((VIP, 53, proto::UDP), Frontend { service: 7, flags: 0 });
    for (own, expected) in
        [([0; 4], NODE), (topology::SECOND_NODE, topology::SECOND_NODE), (NODE, NODE)]
    {
        let socket = server(at(own, 0));
        socket.connect(at(VIP, 53)).unwrap();
        let known = clients(&datapath);
        assert!(known.contains(&v4(expected)), "{own:?} {known:?}");
    }
    assert_eq!(clients(&datapath).len(), 2);
    // Packets that no socket program has seen have the same backend.
    let backend_of = |source| {
        let affinity = datapath.affinity();
        let bound = affinity.iter().find(|(key, _)| key.client == v4(source)).unwrap().1.backend;
        let packet = Packet::udp((source, 5000), (VIP, 53), b"x");
        let sent = datapath.to_netdev(&packet).to_uplink(&[Outcome::Translated]);
        (bound, 700 + u32::from(sent.dst[3]))
    };
    for source in [NODE, topology::SECOND_NODE] {
        let (by_socket, by_packet) = backend_of(source);
        assert_eq!(by_socket, by_packet, "{source:?}");
    }
}

#[test]
fn source_ranges_see_the_address_that_a_socket_of_the_node_is_bound_to() {
    let (datapath, _cgroup) = node();
    const LB: [u8; 4] = [203, 0, 113, 10];
    let sets = Sets { cluster: vec![(FAR_POD, 53)], ..Sets::default() };
    datapath.service_port(7, proto::UDP, &sets);
    let flags = frontend_flags::EXTERNAL | frontend_flags::SOURCE_RANGES;
    datapath.frontend((LB, 53, proto::UDP), Frontend { service: 7, flags });
    datapath.source_range(7, topology::SECOND_NODE, 32);
    // What is not translated is dropped by tc.
    for (own, is_translated) in [([0; 4], false), (NODE, false), (topology::SECOND_NODE, true)] {
        let socket = server(at(own, 0));
        socket.connect(at(LB, 53)).unwrap();
        socket.send(b"x").unwrap();
        let packet = Packet::udp((if own == [0; 4] { NODE } else { own }, 5000), (LB, 53), b"x");
        let run = datapath.to_netdev(&packet);
        assert_eq!(run.labels().contains(&Outcome::Translated.label()), is_translated, "{own:?}");
        assert_eq!(is_connected_to(&socket, FAR_POD), is_translated, "{own:?}");
    }
}

/// Whether the kernel sends the datagrams of a connected socket to an address.
fn is_connected_to(socket: &UdpSocket, address: [u8; 4]) -> bool {
    let port = socket.local_addr().unwrap().port();
    let hex =
        |address: [u8; 4], port: u16| format!("{:08X}:{port:04X}", u32::from_le_bytes(address));
    let sockets = std::fs::read_to_string("/proc/self/net/udp").unwrap();
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = format!(":{port:04X}");
    lines.any(|words| words[1].ends_with(&own) && words[2] == hex(address, 53))
}
