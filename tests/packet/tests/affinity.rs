//! Session affinity, by packets and by sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use packet_tests::*;
use sluice_abi::{Frontend, NodeConfig, frontend_flags, map, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SERVICE: u32 = 7;
const TIMEOUT: u32 = 10;
/// Backends on another node: enough that a client finds the same one again by chance only once in
/// eight connections.
const BACKENDS: [Endpoint; 8] = {
    let mut backends = [([10, 244, 2, 0], 8080); 8];
    let mut n = 0;
    while n < 8 {
        backends[n].0[3] = 20 + n as u8;
        n += 1;
    }
    backends
};

fn sets(cluster: &[Endpoint], local: &[Endpoint]) -> Sets {
    Sets { cluster: cluster.to_vec(), local: local.to_vec(), affinity_seconds: TIMEOUT }
}

/// A Service with affinity: ClusterIP and NodePort 30080, with external traffic policy Local.
fn datapath(sets: &Sets) -> Datapath {
    let datapath = Datapath::node();
    datapath.service_port(SERVICE, proto::TCP, sets);
    datapath.frontend((VIP, 80, proto::TCP), Frontend { service: SERVICE, flags: 0 });
    let flags = frontend_flags::EXTERNAL | frontend_flags::LOCAL;
    datapath.frontend(([0; 4], 30_080, proto::TCP), Frontend { service: SERVICE, flags });
    datapath
}

/// The backend of a packet, by the packet that comes out.
fn backend(run: Run) -> Endpoint {
    let labels: Vec<_> = run.counters.keys().copied().collect();
    run.counted(&labels);
    assert_eq!(run.action, Action::Redirect, "{labels:?}");
    let packet = run.packet();
    (packet.dst, packet.dport())
}

/// A new connection of a pod through the ClusterIP.
fn from_pod(datapath: &Datapath, (pod, ifindex): ([u8; 4], u32), port: u16) -> Endpoint {
    backend(datapath.from_pod(ifindex, &Packet::tcp((pod, port), (VIP, 80), SYN, b"")))
}

/// A new connection of an external client.
fn from_wire(datapath: &Datapath, client: [u8; 4], port: u16, to: Endpoint) -> Endpoint {
    backend(datapath.from_netdev(&Packet::tcp((client, port), to, SYN, b"")))
}

const POD: ([u8; 4], u32) = (CLIENT, CLIENT_IFINDEX);

#[test]
fn a_client_keeps_its_backend_and_clients_are_spread() {
    let datapath = datapath(&sets(&BACKENDS, &[]));
    let first = from_pod(&datapath, POD, 1000);
    for port in 1001..1050 {
        assert_eq!(from_pod(&datapath, POD, port), first);
    }
    let of_clients: BTreeSet<Endpoint> =
        (1..60).map(|n| from_wire(&datapath, [198, 51, 100, n], 1000, (VIP, 80))).collect();
    assert!(of_clients.len() > 4, "{of_clients:?}");
    assert_eq!(datapath.affinity().len(), 60);
}

#[test]
fn an_entry_of_a_cpu_with_a_later_clock_binds_its_client() {
    let datapath = datapath(&sets(&BACKENDS, &[]));
    let first = from_pod(&datapath, POD, 1000);
    for port in 1001..1030 {
        // One second into the future.
        datapath.age_affinity(1u32.wrapping_neg());
        assert_eq!(from_pod(&datapath, POD, port), first);
    }
}

#[test]
fn all_frontends_of_a_port_share_the_backend_of_a_client_and_other_ports_do_not() {
    let datapath = datapath(&sets(&BACKENDS, &BACKENDS));
    let first = from_wire(&datapath, EXTERNAL, 1000, (VIP, 80));
    assert_eq!(from_wire(&datapath, EXTERNAL, 1001, (NODE, 30_080)), first);
    assert_eq!(from_wire(&datapath, EXTERNAL, 1002, (VIP, 80)), first);
    datapath.service_port(8, proto::TCP, &sets(&BACKENDS, &[]));
    datapath.frontend((VIP, 81, proto::TCP), Frontend { service: 8, flags: 0 });
    let clients = (1..40).map(|n| [203, 0, 113, n]);
    let same = clients.filter(|client| {
        let [one, other] = [80, 81].map(|port| from_wire(&datapath, *client, 1000, (VIP, port)));
        one == other
    });
    assert!(same.count() < 20, "39 clients have the same backend of both ports 5 times on average");
}

#[test]
fn contract_4_2_only_new_connections_renew_the_timeout() {
    let datapath = datapath(&sets(&BACKENDS, &[]));
    let first = from_pod(&datapath, POD, 1000);
    for n in 0..5 {
        datapath.age_affinity(TIMEOUT - 1);
        assert_eq!(from_pod(&datapath, POD, 1001 + n), first, "renewed by connection {n}");
    }
    // A packet of an open connection, and one of a connection that is not known.
    datapath.age_affinity(TIMEOUT - 1);
    let ack = |port| Packet::tcp((CLIENT, port), (VIP, 80), ACK, b"x");
    assert_eq!(backend(datapath.from_pod(CLIENT_IFINDEX, &ack(1001))), first);
    datapath.from_pod(CLIENT_IFINDEX, &ack(2000)).rejected(sluice_abi::DropReason::NotTracked);
    datapath.age_affinity(TIMEOUT + 2);
    let later: BTreeSet<Endpoint> = (0..20)
        .map(|n| {
            datapath.age_affinity(TIMEOUT + 2);
            from_pod(&datapath, POD, 1100 + n)
        })
        .collect();
    assert!(later.len() > 2, "{later:?}");
}

#[test]
fn contract_4_3_a_client_leaves_a_backend_that_leaves_the_set() {
    let datapath = datapath(&sets(&BACKENDS, &[]));
    let mut left = BACKENDS.to_vec();
    let mut port = 1000;
    while left.len() > 1 {
        let bound = from_pod(&datapath, POD, port);
        left.retain(|backend| *backend != bound);
        datapath.service_port(SERVICE, proto::TCP, &sets(&left, &[]));
        let next = from_pod(&datapath, POD, port + 1);
        assert!(left.contains(&next), "{next:?}");
        assert_eq!(from_pod(&datapath, POD, port + 2), next);
        port += 3;
    }
}

/// A client that reaches the Cluster set by one frontend and the Local set by another.
#[test]
fn the_backend_of_a_client_is_in_the_set_of_the_frontend() {
    let local = [(SERVER, 8080)];
    let all: Vec<Endpoint> = BACKENDS.into_iter().chain(local).collect();
    let datapath = datapath(&sets(&all, &local));
    for n in 1..20 {
        let client = [203, 0, 113, n];
        from_wire(&datapath, client, 1000, (VIP, 80));
        assert_eq!(from_wire(&datapath, client, 1001, (NODE, 30_080)), local[0]);
        // Bound to it now.
        assert_eq!(from_wire(&datapath, client, 1002, (VIP, 80)), local[0]);
    }
}

#[test]
fn contract_4_4_switching_affinity_acts_on_the_next_connection() {
    let datapath = datapath(&Sets { affinity_seconds: 0, ..sets(&BACKENDS, &[]) });
    let spread: BTreeSet<Endpoint> = (0..30).map(|n| from_pod(&datapath, POD, 1000 + n)).collect();
    assert!(spread.len() > 3, "{spread:?}");
    assert_eq!(datapath.affinity(), []);
    datapath.service_port(SERVICE, proto::TCP, &sets(&BACKENDS, &[]));
    let bound: BTreeSet<Endpoint> = (0..30).map(|n| from_pod(&datapath, POD, 2000 + n)).collect();
    assert_eq!(bound.len(), 1);
    datapath.service_port(
        SERVICE,
        proto::TCP,
        &Sets { affinity_seconds: 0, ..sets(&BACKENDS, &[]) },
    );
    let spread: BTreeSet<Endpoint> = (0..30).map(|n| from_pod(&datapath, POD, 3000 + n)).collect();
    assert!(spread.len() > 3, "{spread:?}");
}

#[test]
fn a_service_with_five_thousand_backends_has_affinity() {
    let many: Vec<Endpoint> =
        (0..5_000u16).map(|n| ([10, 244, 2 + (n >> 8) as u8, n as u8], 8080)).collect();
    let datapath = Datapath::node();
    // Ids of other Service ports follow: the only Service of this test.
    let service = 1;
    for (n, &(address, port)) in (0..).zip(&many) {
        datapath.backend(n + 1, (address, port, proto::TCP));
        datapath.map(map::SLOTS).update(&n, &(n + 1)).unwrap();
    }
    let port = sluice_abi::ServicePort {
        cluster: sluice_abi::SlotRange { offset: 0, len: 5_000 },
        affinity_seconds: TIMEOUT,
        ..Default::default()
    };
    datapath.map(map::SERVICES).update(&service, &port).unwrap();
    datapath.frontend((VIP, 80, proto::TCP), Frontend { service, flags: 0 });
    datapath.network([10, 244, 0, 0], 16, sluice_abi::network_kind::REMOTE_PODS);
    datapath.network([10, 244, 1, 0], 24, sluice_abi::network_kind::LOCAL_PODS);
    for n in 0..50u8 {
        let client = [203, 0, 113, n];
        let first = service_backend(&datapath, client, 1000);
        assert_eq!(service_backend(&datapath, client, 1001), first);
    }
}

/// The backend that the programs recorded for a client: packets to most of these have no route here.
fn service_backend(datapath: &Datapath, client: [u8; 4], port: u16) -> u32 {
    let run = datapath.from_netdev(&Packet::tcp((client, port), (VIP, 80), SYN, b""));
    let labels: Vec<_> = run.counters.keys().copied().collect();
    run.counted(&labels);
    let entries = datapath.affinity();
    entries.iter().find(|(key, _)| key.client == v4(client)).unwrap().1.backend
}

/// The backend of a connected UDP socket of this process.
fn connected() -> SocketAddr {
    udp_peer((VIP, 53)).unwrap()
}

fn node_with_sockets() -> (Datapath, InCgroup) {
    let mut datapath = Datapath::node();
    datapath.service_port(SERVICE, proto::UDP, &sets(&BACKENDS, &[]));
    datapath.frontend((VIP, 53, proto::UDP), Frontend { service: SERVICE, flags: 0 });
    let cgroup = InCgroup::enter(&mut datapath, &["connect4"]);
    (datapath, cgroup)
}

#[test]
fn sockets_of_the_node_have_the_address_of_the_node_as_client() {
    let (datapath, _cgroup) = node_with_sockets();
    datapath.node_config(&NodeConfig { netns_cookie: netns_cookie(), ..node_config() });
    let first = connected();
    assert_ne!(first, SocketAddr::from((VIP, 53)));
    assert!((0..20).all(|_| connected() == first));
    let clients: Vec<_> = datapath.affinity().into_iter().map(|(key, _)| key.client).collect();
    assert_eq!(clients, [v4(NODE)]);
}

#[test]
fn sockets_and_packets_of_a_pod_share_its_backend() {
    let (datapath, _cgroup) = node_with_sockets();
    datapath.enter_pod(CLIENT);
    let first = connected();
    assert!((0..20).all(|_| connected() == first));
    for port in 1000..1020 {
        let packet = Packet::udp((CLIENT, port), (VIP, 53), b"x");
        let (address, port) = backend(datapath.from_pod(CLIENT_IFINDEX, &packet));
        assert_eq!(SocketAddr::from((address, port)), first);
    }
    assert_eq!(datapath.affinity().len(), 1);
}

#[test]
fn sockets_of_an_unknown_client_are_left_to_the_packet_programs() {
    let (datapath, _cgroup) = node_with_sockets();
    assert_eq!(connected(), SocketAddr::from((VIP, 53)));
    assert_eq!(datapath.affinity(), []);
    // Without affinity the client does not matter.
    datapath.service_port(
        SERVICE,
        proto::UDP,
        &Sets { affinity_seconds: 0, ..sets(&BACKENDS, &[]) },
    );
    assert_ne!(connected(), SocketAddr::from((VIP, 53)));
}
