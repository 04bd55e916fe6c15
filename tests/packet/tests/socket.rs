//! ClusterIP Services at the socket: real sockets in a cgroup of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use packet_tests::*;
use sluice_abi::{Backend, map, proto};

/// The first backend's address; every 127.x.y.z is local.
const ONE: [u8; 4] = [127, 0, 0, 1];
/// The second backend's.
const TWO: [u8; 4] = [127, 0, 0, 2];
/// Long enough for loopback, short enough to fail in.
const DEADLINE: Duration = Duration::from_secs(5);

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// As an IPv6 socket names an IPv4 peer.
fn mapped(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddrV6::new(Ipv4Addr::from(address).to_ipv6_mapped(), port, 0, 0).into()
}

fn entered() -> (Kernel, InCgroup) {
    enter(Kernel::world())
}

fn enter(mut kernel: Kernel) -> (Kernel, InCgroup) {
    uplink_ifindex(); // Brings loopback up.
    let cgroup = InCgroup::enter(&mut kernel);
    (kernel, cgroup)
}

/// A UDP server that answers each datagram with its own address.
fn udp_server(address: [u8; 4]) -> UdpSocket {
    let server = UdpSocket::bind(at(address, 0)).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server
}

fn answer(server: &UdpSocket) {
    let mut buffer = [0; 64];
    let (len, client) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], client).unwrap();
}

fn ask(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> SocketAddr {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"question", to).unwrap();
    answer(server);
    let mut buffer = [0; 64];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"question");
    from
}

#[test]
fn a_connection_reaches_a_backend_and_its_peer_is_the_service() {
    let (kernel, _cgroup) = entered();
    let server = TcpListener::bind(at(ONE, 0)).unwrap();
    kernel.service(7, (VIP, 80, proto::TCP), &[(ONE, server.local_addr().unwrap().port())]);
    for to in [at(VIP, 80), mapped(VIP, 80)] {
        let mut client = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
        let (mut served, from) = server.accept().unwrap();
        assert_eq!(client.peer_addr().unwrap(), to, "the name that was asked for");
        assert_eq!(client.local_addr().unwrap().port(), from.port());
        client.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        served.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
    }
}

#[test]
fn other_addresses_are_left_alone() {
    let (kernel, _cgroup) = entered();
    let server = TcpListener::bind(at(TWO, 0)).unwrap();
    kernel.service(7, (VIP, 80, proto::TCP), &[(ONE, 1)]);
    let to = server.local_addr().unwrap();
    let client = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    assert_eq!(client.peer_addr().unwrap(), to);
}

#[test]
fn without_an_endpoint_or_for_an_unknown_port_the_call_is_refused_at_once() {
    let (kernel, _cgroup) = entered();
    kernel.service(7, (VIP, 80, proto::TCP), &[]);
    kernel.service(8, (VIP, 53, proto::UDP), &[]);
    for to in [at(VIP, 80), mapped(VIP, 80), at(VIP, 81)] {
        let error = TcpStream::connect_timeout(&to, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    let error = client.send_to(b"x", at(VIP, 53)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let error = client.connect(at(VIP, 53)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn answers_to_an_unconnected_socket_come_from_the_service() {
    let (kernel, _cgroup) = entered();
    let server = udp_server(ONE);
    kernel.service(7, (VIP, 53, proto::UDP), &[(ONE, server.local_addr().unwrap().port())]);
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    assert_eq!(ask(&client, at(VIP, 53), &server), at(VIP, 53));
    // The same server by its own name, from another socket: not a Service.
    let direct = UdpSocket::bind(at(ONE, 0)).unwrap();
    let own = server.local_addr().unwrap();
    assert_eq!(ask(&direct, own, &server), own);
    // An IPv6 socket that names the Service in mapped form.
    let six = UdpSocket::bind("[::]:0").unwrap();
    assert_eq!(ask(&six, mapped(VIP, 53), &server), mapped(VIP, 53));
}

#[test]
fn a_connected_datagram_socket_sees_the_service_as_its_peer() {
    let (kernel, _cgroup) = entered();
    let server = udp_server(ONE);
    kernel.service(7, (VIP, 53, proto::UDP), &[(ONE, server.local_addr().unwrap().port())]);
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.connect(at(VIP, 53)).unwrap();
    assert_eq!(client.peer_addr().unwrap(), at(VIP, 53));
    client.send(b"question").unwrap();
    answer(&server);
    let mut buffer = [0; 64];
    let (_, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(from, at(VIP, 53));
}

#[test]
fn an_unconnected_socket_keeps_its_backend_until_that_is_gone() {
    let (kernel, _cgroup) = entered();
    let (one, two) = (udp_server(ONE), udp_server(TWO));
    let ports = (one.local_addr().unwrap().port(), two.local_addr().unwrap().port());
    kernel.service(7, (VIP, 53, proto::UDP), &[(ONE, ports.0)]);
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    assert_eq!(ask(&client, at(VIP, 53), &one), at(VIP, 53));
    // Another run of slots, with the old backend still in the table.
    kernel.service(9, (VIP, 53, proto::UDP), &[(TWO, ports.1)]);
    assert_eq!(ask(&client, at(VIP, 53), &one), at(VIP, 53));
    kernel.map::<u32, Backend>(map::BACKENDS).delete(&701).unwrap();
    assert_eq!(ask(&client, at(VIP, 53), &two), at(VIP, 53));
}

#[test]
fn many_services_on_one_socket_each_answer_under_their_own_name() {
    let (kernel, _cgroup) = entered();
    let servers: Vec<_> = (0..6).map(|_| udp_server(ONE)).collect();
    let vip = |n: usize| [10, 96, 1, n as u8];
    for (n, server) in servers.iter().enumerate() {
        let backend = (ONE, server.local_addr().unwrap().port());
        kernel.service(20 + n as u32, (vip(n), 53, proto::UDP), &[backend]);
    }
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    for _ in 0..3 {
        for (n, server) in servers.iter().enumerate() {
            assert_eq!(ask(&client, at(vip(n), 53), server), at(vip(n), 53));
        }
    }
}

#[test]
fn new_connections_spread_over_the_backends() {
    let (kernel, _cgroup) = entered();
    let (one, two) = (udp_server(ONE), udp_server(TWO));
    let backends =
        [(ONE, one.local_addr().unwrap().port()), (TWO, two.local_addr().unwrap().port())];
    kernel.service(7, (VIP, 53, proto::UDP), &backends);
    let mut hits = 0u32;
    for _ in 0..1_000 {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect(at(VIP, 53)).unwrap();
        client.send(b"x").unwrap();
        // Routed to 127.0.0.1 the socket gets that as its own address, to 127.0.0.2 the same: ask
        // the server.
        one.set_nonblocking(true).unwrap();
        let mut buffer = [0; 8];
        hits += u32::from(one.recv_from(&mut buffer).is_ok());
    }
    // 1,000 draws of 1/2: six standard deviations are 95.
    assert!(hits.abs_diff(500) < 95, "{hits}");
}

#[test]
fn an_older_kernel_leaves_the_refusal_to_the_packet_programs() {
    let (kernel, _cgroup) = enter(Kernel::with_set_retval(false));
    kernel.service(8, (VIP, 53, proto::UDP), &[]);
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect(at(VIP, 53)).expect("no EPERM: NFS and others would spin on it");
    assert_eq!(client.peer_addr().unwrap(), at(VIP, 53));
}
