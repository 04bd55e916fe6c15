//! ClusterIP Services at the socket: real sockets in a cgroup of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use packet_tests::longest_path::{Step, highest};
use packet_tests::*;
use sluice_abi::{Frontend, Outcome, frontend_flags, program, proto};

/// Address of the first backend; every address of 127.0.0.0/8 is local.
const ONE: [u8; 4] = [127, 0, 0, 1];
/// Address of the second backend.
const TWO: [u8; 4] = [127, 0, 0, 2];
/// Deadline of every socket call.
const DEADLINE: Duration = Duration::from_secs(5);

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// The v4-mapped form that an IPv6 socket uses for an IPv4 peer.
fn mapped(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddrV6::new(Ipv4Addr::from(address).to_ipv6_mapped(), port, 0, 0).into()
}

fn node_in_cgroup() -> (Datapath, InCgroup) {
    let mut datapath = Datapath::node();
    let cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    (datapath, cgroup)
}

fn udp_server(address: [u8; 4]) -> UdpSocket {
    let server = UdpSocket::bind(at(address, 0)).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server
}

fn port(server: &UdpSocket) -> u16 {
    server.local_addr().unwrap().port()
}

/// Sends a request, answers it at `server`, and returns the source of the reply as the client sees
/// it.
fn source_of_reply(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"request", to).unwrap();
    reply(client, server)
}

fn reply(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 64];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], from).unwrap();
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"request");
    from
}

#[test]
fn a_connection_to_a_service_reaches_its_backend_and_has_the_service_as_peer() {
    let (datapath, _cgroup) = node_in_cgroup();
    let server = TcpListener::bind(at(ONE, 0)).unwrap();
    datapath.service(7, (VIP, 80, proto::TCP), &[(ONE, server.local_addr().unwrap().port())]);
    for to in [at(VIP, 80), mapped(VIP, 80)] {
        let mut client = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
        let (mut served, from) = accept(&server, DEADLINE).unwrap();
        assert_eq!(client.peer_addr().unwrap(), to);
        assert_eq!(client.local_addr().unwrap().port(), from.port());
        client.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        served.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
    }
    assert!(datapath.flows().is_empty(), "translated at the socket, not per packet");
}

#[test]
fn connections_to_other_addresses_are_not_translated() {
    let (datapath, _cgroup) = node_in_cgroup();
    let server = TcpListener::bind(at(TWO, 0)).unwrap();
    datapath.service(7, (VIP, 80, proto::TCP), &[(ONE, 1)]);
    let to = server.local_addr().unwrap();
    let client = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    assert_eq!(client.peer_addr().unwrap(), to);
}

#[test]
fn calls_to_a_service_without_endpoint_or_an_unknown_port_are_refused() {
    let (datapath, _cgroup) = node_in_cgroup();
    datapath.service(7, (VIP, 80, proto::TCP), &[]);
    datapath.service(8, (VIP, 53, proto::UDP), &[]);
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
fn calls_to_a_local_policy_service_without_local_endpoint_are_left_to_the_packet_programs() {
    let (datapath, _cgroup) = node_in_cgroup();
    datapath.service_port(7, proto::UDP, &Sets { cluster: vec![(FAR_POD, 53)], ..Sets::default() });
    let frontend = Frontend { service: 7, flags: frontend_flags::LOCAL };
    datapath.frontend((VIP, 53, proto::UDP), frontend);
    assert_eq!(udp_peer((VIP, 53)), Ok(at(VIP, 53)));
}

#[test]
fn replies_to_an_unconnected_socket_come_from_the_service() {
    let (datapath, _cgroup) = node_in_cgroup();
    let server = udp_server(ONE);
    datapath.service(7, (VIP, 53, proto::UDP), &[(ONE, port(&server))]);
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    assert_eq!(source_of_reply(&client, at(VIP, 53), &server), at(VIP, 53));
    // Another socket that sends to the server's own address gets replies from that address.
    let direct = UdpSocket::bind(at(ONE, 0)).unwrap();
    let own = server.local_addr().unwrap();
    assert_eq!(source_of_reply(&direct, own, &server), own);
    // An IPv6 socket that sends to the v4-mapped address of the Service.
    let v6 = UdpSocket::bind("[::]:0").unwrap();
    assert_eq!(source_of_reply(&v6, mapped(VIP, 53), &server), mapped(VIP, 53));
}

#[test]
fn a_connected_datagram_socket_has_the_service_as_peer() {
    let (datapath, _cgroup) = node_in_cgroup();
    let server = udp_server(ONE);
    datapath.service(7, (VIP, 53, proto::UDP), &[(ONE, port(&server))]);
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    client.connect(at(VIP, 53)).unwrap();
    assert_eq!(client.peer_addr().unwrap(), at(VIP, 53));
    client.send(b"request").unwrap();
    assert_eq!(reply(&client, &server), at(VIP, 53));
}

#[test]
fn an_unconnected_socket_keeps_its_backend_until_it_is_removed() {
    let (datapath, _cgroup) = node_in_cgroup();
    let (one, two) = (udp_server(ONE), udp_server(TWO));
    datapath.service(7, (VIP, 53, proto::UDP), &[(ONE, port(&one))]);
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    assert_eq!(source_of_reply(&client, at(VIP, 53), &one), at(VIP, 53));
    // Another Cluster set, with the old backend still in the table.
    let sets = Sets {
        cluster: vec![(TWO, port(&two))],
        local: vec![(ONE, port(&one))],
        ..Sets::default()
    };
    datapath.service_port(7, proto::UDP, &sets);
    assert_eq!(source_of_reply(&client, at(VIP, 53), &one), at(VIP, 53));
    datapath.remove_backend((ONE, port(&one), proto::UDP));
    assert_eq!(source_of_reply(&client, at(VIP, 53), &two), at(VIP, 53));
}

/// The id of a backend is assigned to one with another address, and then to one with another port.
#[test]
fn an_unconnected_socket_leaves_a_backend_whose_id_was_assigned_again() {
    let (datapath, _cgroup) = node_in_cgroup();
    let first = udp_server(ONE);
    let same_port = UdpSocket::bind(at(TWO, port(&first))).unwrap();
    same_port.set_read_timeout(Some(DEADLINE)).unwrap();
    let same_address = udp_server(TWO);
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    for server in [&first, &same_port, &same_address] {
        let SocketAddr::V4(backend) = server.local_addr().unwrap() else { unreachable!() };
        let backend = (backend.ip().octets(), backend.port());
        datapath.service(7, (VIP, 53, proto::UDP), &[backend]);
        assert_eq!(source_of_reply(&client, at(VIP, 53), server), at(VIP, 53));
    }
}

#[test]
fn a_socket_remembers_eight_services_and_the_ninth_replaces_the_oldest() {
    let (datapath, _cgroup) = node_in_cgroup();
    let servers: Vec<_> = (0..9).map(|_| udp_server(ONE)).collect();
    let vip = |n: usize| at([10, 96, 1, n as u8], 53);
    for (n, server) in servers.iter().enumerate() {
        let service = ([10, 96, 1, n as u8], 53, proto::UDP);
        datapath.service(20 + n as u32, service, &[(ONE, port(server))]);
    }
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    // The first eight stay, in whichever order they are used.
    for _ in 0..2 {
        for (n, server) in servers[..8].iter().enumerate() {
            assert_eq!(source_of_reply(&client, vip(n), server), vip(n));
        }
    }
    // All requests before the first reply.
    for n in 0..9 {
        client.send_to(b"request", vip(n)).unwrap();
    }
    let oldest = servers[0].local_addr().unwrap();
    assert_eq!(reply(&client, &servers[0]), oldest, "the ninth replaced the oldest");
    for (n, server) in servers.iter().enumerate().skip(1) {
        assert_eq!(reply(&client, server), vip(n), "Service {n}");
    }
}

#[test]
fn another_backend_of_a_remembered_service_takes_no_second_place() {
    let (datapath, _cgroup) = node_in_cgroup();
    let servers: Vec<_> = (0..9).map(|_| udp_server(ONE)).collect();
    let vip = |n: usize| at([10, 96, 1, n as u8], 53);
    let service = |id: usize, n: usize, server: &UdpSocket| {
        let vip = ([10, 96, 1, n as u8], 53, proto::UDP);
        datapath.service(20 + id as u32, vip, &[(ONE, port(server))]);
    };
    let client = UdpSocket::bind(at(ONE, 0)).unwrap();
    for (n, server) in servers[..8].iter().enumerate() {
        service(n, n, server);
        assert_eq!(source_of_reply(&client, vip(n), server), vip(n));
    }
    datapath.remove_backend((ONE, port(&servers[3]), proto::UDP));
    service(8, 3, &servers[8]);
    assert_eq!(source_of_reply(&client, vip(3), &servers[8]), vip(3));
    // The oldest of the eight is still there: a reply without a new request has its name.
    let to = client.local_addr().unwrap();
    servers[0].send_to(b"late", to).unwrap();
    let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from, vip(0));
}

#[test]
fn new_connections_spread_over_the_backends() {
    let (datapath, _cgroup) = node_in_cgroup();
    let (one, two) = (udp_server(ONE), udp_server(TWO));
    let backends = [(ONE, port(&one)), (TWO, port(&two))];
    datapath.service(7, (VIP, 53, proto::UDP), &backends);
    one.set_nonblocking(true).unwrap();
    let mut hits = 0u32;
    for _ in 0..1_000 {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect(at(VIP, 53)).unwrap();
        client.send(b"x").unwrap();
        // The client cannot see its backend, and loopback delivers before `send` returns.
        hits += u32::from(one.recv_from(&mut [0; 8]).is_ok());
    }
    // 1,000 draws of 1/2: six standard deviations are 95.
    assert!(hits.abs_diff(500) < 95, "{hits}");
}

#[test]
fn without_bpf_set_retval_the_refusal_is_left_to_the_packet_programs() {
    let mut datapath = Datapath::load_with(Options { set_retval: false, ..Options::default() });
    datapath.configure_node();
    let _cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    datapath.service(8, (VIP, 53, proto::UDP), &[]);
    // EPERM, the only error that the program could cause, makes the kernel's NFS client retry for
    // ever (cilium/cilium#45184).
    assert_eq!(udp_peer((VIP, 53)), Ok(at(VIP, 53)));
}

/// Contract 9.7: at the socket, packets of a pod to itself would not leave the pod.
#[test]
fn contract_9_7_a_service_does_not_lead_a_judged_pod_to_itself_at_the_socket() {
    let (datapath, _cgroup) = node_in_cgroup();
    datapath.local_pod(ONE, 3);
    datapath.enter_pod(ONE);
    let (own, other) = (udp_server(ONE), udp_server(TWO));
    datapath.service(7, (VIP, 53, proto::UDP), &[(ONE, port(&own))]);
    datapath.service(8, (VIP, 54, proto::UDP), &[(TWO, port(&other))]);
    let socket = || UdpSocket::bind("0.0.0.0:0").unwrap();
    let unconnected = socket();
    let is_translated = |client: &UdpSocket| {
        // Without translation, the address of the Service leads nowhere here.
        let sent = client.send_to(b"request", at(VIP, 53)).is_ok();
        own.set_nonblocking(true).unwrap();
        let received = own.recv_from(&mut [0; 64]).is_ok();
        own.set_nonblocking(false).unwrap();
        sent && received
    };
    // Loopback delivers within the system call.
    assert!(is_translated(&unconnected));
    datapath.judge_hairpin(ONE, true);
    assert!(!is_translated(&unconnected), "the backend of before is kept");
    assert!(!is_translated(&socket()));
    let connected = socket();
    assert!(
        connected.connect(at(VIP, 53)).is_err() || connected.send(b"request").is_err() || {
            own.set_nonblocking(true).unwrap();
            own.recv_from(&mut [0; 64]).is_err()
        }
    );
    // Other backends are chosen at the socket as before.
    assert_eq!(source_of_reply(&socket(), at(VIP, 54), &other), at(VIP, 54));
    datapath.judge_hairpin(ONE, false);
    assert!(is_translated(&unconnected) && is_translated(&socket()));
    // Policies that are not known yet.
    datapath.forget_policy(ONE);
    datapath.open_namespace(false);
    assert!(!is_translated(&socket()));
    datapath.open_namespace(true);
    assert!(is_translated(&socket()));
}

#[test]
fn a_socket_from_before_the_programs_is_served_by_the_packet_programs() {
    let mut datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(FAR_POD, 53)]);
    let before = UdpSocket::bind(at(NODE, 0)).unwrap();
    before.connect(at(VIP, 53)).unwrap();
    let _cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    before.send(b"x").unwrap();
    assert_eq!(before.peer_addr().unwrap(), at(VIP, 53));
    let packet = Packet::udp((NODE, port(&before)), (VIP, 53), b"x");
    let sent = datapath.to_netdev(&packet).to_uplink(&[Outcome::Translated]);
    assert_eq!(sent.dst, FAR_POD);
    // The reply has the Service as source, as the socket expects.
    let reply = Packet::udp((FAR_POD, 53), (NODE, port(&before)), b"x");
    assert_eq!(datapath.from_netdev(&reply).to_stack(&[Outcome::Restored]).src, VIP);
}

#[test]
fn connection_is_searched_for_once_among_the_pods() {
    let functions = bytecode::functions(&object());
    let search = |step: Step<'_>| u32::from(step == Step::Search("POD_NETNS"));
    for name in ["connect4", "connect6"] {
        assert_eq!(highest(&functions, name, &search), 1, "{name}");
    }
}
