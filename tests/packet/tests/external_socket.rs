//! NodePorts, load balancer addresses and external IPs at the socket: real sockets in a cgroup of the
//! test. The test process is in the node's network namespace, or, by another cookie in the
//! configuration, in that of a pod.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use packet_tests::*;
use sluice_abi::{
    DropReason, Frontend, NodeConfig, Outcome, frontend_flags, network_kind, program, proto,
};

const SERVICE: u32 = 7;
const NODE_PORT: u16 = 30_053;
const BACKEND: Endpoint = ([127, 0, 0, 3], 5353);
const ALL_NODE_PORTS: [u8; 4] = [0; 4];
const LB: [u8; 4] = [203, 0, 113, 10];

/// A Service with one backend, and a NodePort with external traffic policy Local.
fn node(cookie: u64) -> (Datapath, InCgroup) {
    let mut datapath = Datapath::node();
    datapath.node_config(&NodeConfig { netns_cookie: cookie, ..node_config() });
    let sets = Sets { cluster: vec![BACKEND], ..Sets::default() };
    datapath.service_port(SERVICE, proto::UDP, &sets);
    let flags = frontend_flags::EXTERNAL | frontend_flags::LOCAL;
    external(&datapath, ALL_NODE_PORTS, NODE_PORT, flags);
    let cgroup = InCgroup::enter(&mut datapath, &["connect4", "connect6"]);
    (datapath, cgroup)
}

fn external(datapath: &Datapath, address: [u8; 4], port: u16, flags: u32) {
    datapath.frontend((address, port, proto::UDP), Frontend { service: SERVICE, flags });
}

/// The peer of a UDP socket after `connect`.
fn peer(address: [u8; 4], port: u16) -> Result<Endpoint, ErrorKind> {
    match udp_peer((address, port))? {
        SocketAddr::V4(peer) => Ok((peer.ip().octets(), peer.port())),
        SocketAddr::V6(peer) => panic!("{peer}"),
    }
}

/// As [`peer`], for an IPv6 socket with an IPv4 peer.
fn mapped_peer(address: [u8; 4], port: u16) -> Result<Endpoint, ErrorKind> {
    let mapped = std::net::Ipv4Addr::from(address).to_ipv6_mapped();
    match udp_peer((mapped, port))? {
        SocketAddr::V6(peer) => Ok((peer.ip().to_ipv4_mapped().unwrap().octets(), peer.port())),
        SocketAddr::V4(peer) => panic!("{peer}"),
    }
}

#[test]
fn processes_of_the_node_reach_node_ports_on_its_addresses_and_on_loopback() {
    let (datapath, _cgroup) = node(netns_cookie());
    for address in [NODE, topology::SECOND_NODE, [127, 0, 0, 1], [127, 9, 9, 9]] {
        assert_eq!(peer(address, NODE_PORT), Ok(BACKEND), "{address:?}");
        assert_eq!(peer(address, NODE_PORT + 1), Ok((address, NODE_PORT + 1)));
    }
    for address in [OTHER_NODE, FAR_POD, CLIENT, EXTERNAL, GATEWAY] {
        assert_eq!(peer(address, NODE_PORT), Ok((address, NODE_PORT)));
    }
    datapath.network(NODE, 32, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
    assert_eq!(peer(NODE, NODE_PORT), Ok((NODE, NODE_PORT)));
    assert_eq!(mapped_peer(topology::SECOND_NODE, NODE_PORT), Ok(BACKEND));
}

#[test]
fn pods_reach_node_ports_on_addresses_of_the_node_and_keep_their_loopback() {
    let (_datapath, _cgroup) = node(netns_cookie() + 1);
    assert_eq!(peer(NODE, NODE_PORT), Ok(BACKEND));
    assert_eq!(peer([127, 0, 0, 1], NODE_PORT), Ok(([127, 0, 0, 1], NODE_PORT)));
}

#[test]
fn contract_3_2_a_node_port_without_endpoints_is_refused_on_every_address() {
    let (datapath, _cgroup) = node(netns_cookie());
    datapath.service_port(SERVICE, proto::UDP, &Sets::default());
    for address in [NODE, [127, 0, 0, 1]] {
        assert_eq!(peer(address, NODE_PORT), Err(ErrorKind::ConnectionRefused), "{address:?}");
    }
}

#[test]
fn an_address_and_port_of_its_own_beats_a_node_port() {
    let (datapath, _cgroup) = node(netns_cookie());
    let other = ([127, 0, 0, 4], 5354);
    datapath.service_port(8, proto::UDP, &Sets { cluster: vec![other], ..Sets::default() });
    let flags = frontend_flags::EXTERNAL;
    datapath.frontend((NODE, NODE_PORT, proto::UDP), Frontend { service: 8, flags });
    assert_eq!(peer(NODE, NODE_PORT), Ok(other));
    assert_eq!(peer(topology::SECOND_NODE, NODE_PORT), Ok(BACKEND));
    // An external IP with the address of another node.
    external(&datapath, OTHER_NODE, 8443, flags);
    assert_eq!(peer(OTHER_NODE, 8443), Ok(BACKEND));
}

#[test]
fn source_ranges_hold_for_the_address_of_the_node_or_pod() {
    let limited = frontend_flags::EXTERNAL | frontend_flags::SOURCE_RANGES;
    let (datapath, cgroup) = node(netns_cookie());
    external(&datapath, LB, 53, limited);
    external(&datapath, NODE, 53, limited);
    // Not in the ranges: the tc programs drop the packet, except on an address of the node, whose
    // packets do not reach them.
    assert_eq!(peer(LB, 53), Ok((LB, 53)));
    assert_eq!(peer(NODE, 53), Err(ErrorKind::ConnectionRefused));
    datapath.source_range(SERVICE, NODE, 32);
    assert_eq!(peer(LB, 53), Ok(BACKEND));
    assert_eq!(peer(NODE, 53), Ok(BACKEND));
    drop((datapath, cgroup));

    let (datapath, _cgroup) = node(netns_cookie() + 1);
    external(&datapath, LB, 53, limited);
    datapath.source_range(SERVICE, NODE, 32);
    assert_eq!(peer(LB, 53), Ok((LB, 53)), "an unknown client");
    datapath.enter_pod(CLIENT);
    assert_eq!(peer(LB, 53), Ok((LB, 53)), "a pod outside the ranges");
    datapath.source_range(SERVICE, CLIENT, 32);
    assert_eq!(peer(LB, 53), Ok(BACKEND));
}

#[test]
fn the_peer_of_a_socket_is_the_node_port() {
    let mut datapath = Datapath::node();
    datapath.node_config(&NodeConfig { netns_cookie: netns_cookie(), ..node_config() });
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let backend = ([127, 0, 0, 1], server.local_addr().unwrap().port());
    datapath.service_port(SERVICE, proto::UDP, &Sets { cluster: vec![backend], ..Sets::default() });
    external(&datapath, ALL_NODE_PORTS, NODE_PORT, frontend_flags::EXTERNAL);
    let _cgroup = InCgroup::enter(&mut datapath, &program::SOCKET);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], NODE_PORT));
    client.send_to(b"request", to).unwrap();
    let mut buffer = [0; 16];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], from).unwrap();
    let (_, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(from, to);
}

#[test]
fn loopback_addresses_can_be_excluded_from_node_ports() {
    let (datapath, _cgroup) = node(netns_cookie());
    datapath.network([127, 0, 0, 0], 8, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
    for address in [[127, 0, 0, 1], [127, 9, 9, 9]] {
        assert_eq!(peer(address, NODE_PORT), Ok((address, NODE_PORT)));
    }
    assert_eq!(peer([0; 4], NODE_PORT), Ok(([127, 0, 0, 1], NODE_PORT)));
    assert_eq!(peer(NODE, NODE_PORT), Ok(BACKEND));
}

#[test]
fn unspecified_address_is_that_of_the_loopback() {
    let (datapath, cgroup) = node(netns_cookie());
    assert_eq!(peer([0; 4], NODE_PORT), Ok(BACKEND));
    assert_eq!(mapped_peer([0; 4], NODE_PORT), Ok(BACKEND));
    assert_eq!(peer([0; 4], NODE_PORT + 1), Ok(([127, 0, 0, 1], NODE_PORT + 1)));
    drop((datapath, cgroup));

    let (_datapath, _cgroup) = node(netns_cookie() + 1);
    assert_eq!(peer([0; 4], NODE_PORT), Ok(([127, 0, 0, 1], NODE_PORT)), "a pod");
    assert_eq!(mapped_peer([0; 4], NODE_PORT), Ok(([127, 0, 0, 1], NODE_PORT)), "a pod");
}

/// A load balancer address or external IP that is also that of a host outside or of a pod.
#[test]
fn other_ports_of_an_external_address_are_those_of_the_host_that_has_it() {
    let (datapath, _cgroup) = node(netns_cookie());
    for address in [LB, OTHER_NODE, NODE, FAR_POD, CLIENT] {
        external(&datapath, address, 53, frontend_flags::EXTERNAL);
        datapath.external_wildcard(address);
        assert_eq!(peer(address, 54), Ok((address, 54)), "{address:?}");
        let of_pod = address == FAR_POD || address == CLIENT;
        let expected = if of_pod { (address, 53) } else { BACKEND };
        assert_eq!(peer(address, 53), Ok(expected), "{address:?}");
    }
    // ClusterIPs have no other ports.
    datapath.wildcard(LB);
    assert_eq!(peer(LB, 54), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn open_connections_of_the_node_survive_that_their_destination_becomes_a_frontend() {
    let datapath = Datapath::node();
    let local = SocketAddr::from((NODE, 40_000));
    let segment = |from| Packet::tcp((NODE, from), (EXTERNAL, 443), 16, b"x");
    let _connecting = connecting(local, SocketAddr::from((EXTERNAL, 443)));
    datapath.to_netdev(&segment(40_000)).passed();
    for address in [EXTERNAL, OTHER_NODE] {
        let sets = Sets { cluster: vec![(FAR_POD, 8443)], ..Sets::default() };
        datapath.service_port(SERVICE, proto::TCP, &sets);
        let frontend = Frontend { service: SERVICE, flags: frontend_flags::EXTERNAL };
        datapath.frontend((address, 443, proto::TCP), frontend);
    }
    datapath.to_netdev(&segment(40_000)).passed();
    datapath.to_netdev(&segment(40_001)).rejected(DropReason::NotTracked);
    let syn = Packet::tcp((NODE, 40_000), (EXTERNAL, 443), 2, b"");
    datapath.to_netdev(&syn).to_uplink(&[Outcome::Translated]);
    let local = SocketAddr::from((NODE, 40_002));
    let _other = connecting(local, SocketAddr::from((OTHER_NODE, 443)));
    let to_node = Packet::tcp((NODE, 40_002), (OTHER_NODE, 443), 16, b"x");
    datapath.to_netdev(&to_node).passed();
}

#[test]
fn an_unconnected_socket_follows_its_frontend_to_another_service() {
    let mut datapath = Datapath::node();
    datapath.node_config(&NodeConfig { netns_cookie: netns_cookie(), ..node_config() });
    let [first, second] = [7, 8].map(|service| {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let backend = ([127, 0, 0, 1], server.local_addr().unwrap().port());
        let sets = Sets { cluster: vec![backend], ..Sets::default() };
        datapath.service_port(service, proto::UDP, &sets);
        server
    });
    let flags = frontend_flags::EXTERNAL;
    datapath.frontend((LB, 53, proto::UDP), Frontend { service: 7, flags });
    let _cgroup = InCgroup::enter(&mut datapath, &["sendmsg4"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let arrives = |server: &UdpSocket| {
        client.send_to(b"request", SocketAddr::from((LB, 53))).unwrap();
        server.recv_from(&mut [0; 16]).unwrap();
    };
    arrives(&first);
    arrives(&first);
    // Its former Service keeps the endpoint.
    datapath.frontend((LB, 53, proto::UDP), Frontend { service: 8, flags });
    arrives(&second);
}

/// `curl --local-port 30053`: the reply to a connection of the node from a port that is a NodePort.
#[test]
fn replies_to_connections_of_the_node_from_a_node_port_reach_it() {
    let datapath = Datapath::node();
    for proto in [proto::UDP, proto::TCP] {
        let sets = Sets { cluster: vec![(FAR_POD, 53)], ..Sets::default() };
        datapath.service_port(u32::from(proto), proto, &sets);
        let frontend = Frontend { service: u32::from(proto), flags: frontend_flags::EXTERNAL };
        datapath.frontend((ALL_NODE_PORTS, NODE_PORT, proto), frontend);
    }
    let local = SocketAddr::from((NODE, NODE_PORT));
    let udp = UdpSocket::bind(local).unwrap();
    let reply = |client| datapath.from_netdev(&Packet::udp((client, 443), (NODE, NODE_PORT), b"x"));
    // The socket has no peer yet: it is only a listener, which a NodePort precedes.
    reply([198, 51, 100, 8]).to_uplink(&[Outcome::Translated, Outcome::Masqueraded]);
    udp.connect(SocketAddr::from((EXTERNAL, 443))).unwrap();
    reply(EXTERNAL).passed();
    reply([198, 51, 100, 9]).to_uplink(&[Outcome::Translated, Outcome::Masqueraded]);

    let syn_ack = |client| {
        let segment = Packet::tcp((client, 443), (NODE, NODE_PORT), 18, b"");
        datapath.from_netdev(&segment)
    };
    syn_ack(EXTERNAL).rejected(DropReason::NotTracked);
    let _connecting = connecting(local, SocketAddr::from((EXTERNAL, 443)));
    syn_ack(EXTERNAL).passed();
    syn_ack([198, 51, 100, 9]).rejected(DropReason::NotTracked);
}

/// A client uses one port directly for a process of the node and, afterwards, through its NodePort: the
/// first connection has no flow, but a socket.
#[test]
fn node_port_does_not_join_a_direct_connection_to_its_backend() {
    let datapath = Datapath::node();
    let sets = Sets { cluster: vec![(NODE, 8080)], ..Sets::default() };
    datapath.service_port(SERVICE, proto::TCP, &sets);
    let frontend = Frontend { service: SERVICE, flags: frontend_flags::EXTERNAL };
    datapath.frontend((ALL_NODE_PORTS, NODE_PORT, proto::TCP), frontend);
    let syn = |port| Packet::tcp((EXTERNAL, port), (NODE, NODE_PORT), 2, b"");
    let _direct = connecting(SocketAddr::from((NODE, 8080)), SocketAddr::from((EXTERNAL, 5000)));
    let other = datapath.from_netdev(&syn(5001)).to_stack(&[Outcome::Translated]);
    assert_eq!((other.sport(), other.dport()), (5001, 8080));
    let joined = datapath.from_netdev(&syn(5000)).to_stack(&[Outcome::Translated]);
    assert_eq!((joined.src, joined.dport()), (EXTERNAL, 8080));
    assert_ne!(joined.sport(), 5000);
    let reply = Packet::tcp((NODE, 8080), (EXTERNAL, joined.sport()), 18, b"");
    let reply = datapath.to_netdev(&reply).to_uplink(&[Outcome::Restored]);
    assert_eq!((reply.sport(), reply.dport()), (NODE_PORT, 5000));
    datapath.to_netdev(&Packet::tcp((NODE, 8080), (EXTERNAL, 5000), 16, b"")).passed();
}

/// A TCP socket that has sent a SYN.
fn connecting(local: SocketAddr, peer: SocketAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).unwrap();
    let result = connect(fd.as_raw_fd(), &SockaddrStorage::from(peer));
    assert_eq!(result, Err(Errno::EINPROGRESS));
    fd
}

#[test]
fn pods_and_processes_of_the_node_reach_host_ports_on_its_addresses() {
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    let (datapath, cgroup) = node(netns_cookie());
    datapath.host_port(([0; 4], 8053, proto::UDP), BACKEND);
    datapath.host_port((topology::SECOND_NODE, 8054, proto::UDP), BACKEND);
    datapath.host_port((LOOPBACK, 8055, proto::UDP), BACKEND);
    // The port is a NodePort as well, whose Service has no endpoints.
    datapath.host_port(([0; 4], NODE_PORT, proto::UDP), BACKEND);
    datapath.service_port(SERVICE, proto::UDP, &Sets::default());
    // By port: on the node's addresses, on its loopback address.
    for (port, on_node, on_second, on_loopback) in
        [(8053, true, true, true), (8054, false, true, false), (8055, false, false, true)]
    {
        for (address, reached) in
            [(NODE, on_node), (topology::SECOND_NODE, on_second), (LOOPBACK, on_loopback)]
        {
            let expected = if reached { BACKEND } else { (address, port) };
            assert_eq!(peer(address, port), Ok(expected), "{address:?}:{port}");
        }
        for address in [OTHER_NODE, FAR_POD, CLIENT, EXTERNAL, GATEWAY] {
            assert_eq!(peer(address, port), Ok((address, port)));
        }
    }
    assert_eq!(mapped_peer(NODE, 8053), Ok(BACKEND));
    assert_eq!(peer(NODE, NODE_PORT), Err(ErrorKind::ConnectionRefused));
    drop((datapath, cgroup));

    let (datapath, cgroup) = node(netns_cookie() + 1);
    datapath.host_port(([0; 4], 8053, proto::UDP), BACKEND);
    assert_eq!(peer(NODE, 8053), Ok(BACKEND));
    assert_eq!(peer(LOOPBACK, 8053), Ok((LOOPBACK, 8053)), "the loopback address is the pod's own");
    // Also where loopback addresses serve no NodePorts.
    datapath.network([127, 0, 0, 0], 8, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
    assert_eq!(peer(LOOPBACK, 8053), Ok((LOOPBACK, 8053)));
    drop((datapath, cgroup));
    let (datapath, _cgroup) = node(netns_cookie());
    datapath.host_port(([0; 4], 8053, proto::UDP), BACKEND);
    datapath.network([127, 0, 0, 0], 8, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
    assert_eq!(peer(LOOPBACK, 8053), Ok(BACKEND), "a process of the node");
}
