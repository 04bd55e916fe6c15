//! Packets with CHECKSUM_PARTIAL and GSO through every translation, between real veth devices.
//!
//! ```text
//! client app == client pod == node == server pod == server app
//!                               |
//!                            external
//! ```
//!
//! A sending socket leaves the checksum to the device, and no veth computes it. Behind each pod's
//! device the pod's namespace forwards to a socket through a device without checksum offload, and
//! so does the uplink: there the kernel computes the checksum from the partial one, and cuts GSO
//! packets into segments. The receiving kernel discards what is wrong, so data that arrives proves
//! that the partial checksums are right. `BPF_PROG_TEST_RUN` cannot show this: its packets have
//! complete checksums.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod network;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use packet_tests::{CLIENT, EXTERNAL, ROUTER, SERVER, VIP, accept};
use sluice_abi::{Outcome, network_kind, proto};

use crate::network::{End, Network};

/// Deadline of every socket call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a TCP transfer: many GSO packets.
const BULK: usize = 1 << 20;
/// Payload of one datagram of a UDP GSO send.
const SEGMENT: usize = 1000;
const OTHER_VIP: [u8; 4] = [10, 96, 0, 51];

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Sends [`BULK`] bytes to `to`, which `server` has to receive at `port`, and then the same back.
/// Asserts that packets of both directions were longer than the MTU: those counted as `forward` on
/// the way to the server, and those counted as restored on the way back.
fn transfer_tcp(
    network: &Network,
    (client, to): (End<'_>, SocketAddr),
    (server, port): (End<'_>, u16),
    forward: Outcome,
) {
    let listener = server
        .namespace
        .run(|| TcpListener::bind(SocketAddr::from((server.address, port))).unwrap());
    let (received, all_received) = mpsc::channel();
    let (proceed, may_return) = mpsc::channel();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let (mut stream, _) = accept(&listener, DEADLINE).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            received.send(()).unwrap();
            may_return.recv_timeout(DEADLINE).unwrap();
            stream.write_all(&bytes).unwrap();
            bytes
        });
        let connected = client.namespace.run(|| TcpStream::connect_timeout(&to, DEADLINE));
        let mut stream = connected.unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let start = network.datapath.counters();
        stream.write_all(&pattern(BULK)).unwrap_or_else(|e| panic!("write to {to}: {e}"));
        stream.shutdown(Shutdown::Write).unwrap();
        all_received.recv_timeout(DEADLINE).unwrap();
        // Each direction is judged while the other one has acknowledgments only.
        let halfway = network.datapath.counters();
        proceed.send(()).unwrap();
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned).unwrap_or_else(|e| panic!("read from {to}: {e}"));
        assert!(echo.join().unwrap() == pattern(BULK), "the server received other bytes");
        assert!(returned == pattern(BULK), "the client received other bytes");
        network::assert_gso(forward, &start, &halfway);
        network::assert_gso(Outcome::Restored, &halfway, &network.datapath.counters());
    });
}

/// Sends a datagram to `to`, which `server` has to receive at `port`, and returns one.
fn exchange(
    client: End<'_>,
    to: SocketAddr,
    server: End<'_>,
    port: u16,
) -> (UdpSocket, UdpSocket, SocketAddr) {
    let bind = |end: End<'_>, port| {
        let socket =
            end.namespace.run(|| UdpSocket::bind(SocketAddr::from((end.address, port))).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let (client, server) = (bind(client, 0), bind(server, port));
    client.connect(to).unwrap();
    let mut buffer = [0; 16];
    client.send(b"single").unwrap();
    let (len, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(&buffer[..len], b"single");
    server.send_to(b"reply", from).unwrap();
    let len = client.recv(&mut buffer).expect("the reply arrives");
    assert_eq!(&buffer[..len], b"reply");
    (client, server, from)
}

/// Exchanges datagrams, then a GSO packet of ten in each direction.
fn transfer_udp(client: End<'_>, to: SocketAddr, server: End<'_>, port: u16) {
    let (client, server, from) = exchange(client, to, server, port);
    let mut buffer = [0; 2 * SEGMENT];
    set_udp_segment(&client);
    set_udp_segment(&server);
    client.send(&pattern(10 * SEGMENT)).unwrap();
    for n in 0..10 {
        let len = server.recv(&mut buffer).unwrap_or_else(|e| panic!("segment {n}: {e}"));
        assert_eq!(buffer[..len], pattern(10 * SEGMENT)[n * SEGMENT..][..SEGMENT]);
    }
    server.send_to(&pattern(10 * SEGMENT), from).unwrap();
    for n in 0..10 {
        let len = client.recv(&mut buffer).unwrap_or_else(|e| panic!("segment {n}: {e}"));
        assert_eq!(buffer[..len], pattern(10 * SEGMENT)[n * SEGMENT..][..SEGMENT]);
    }
}

fn set_udp_segment(socket: &UdpSocket) {
    let segment = SEGMENT as libc::c_int;
    // SAFETY: the value is an int of the given size, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const segment).cast(),
            size_of_val(&segment) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Sends a datagram to a port that is closed at the end of the path; the ICMP error has to reach
/// the socket.
fn expect_refused(client: End<'_>, to: SocketAddr) {
    let socket =
        client.namespace.run(|| UdpSocket::bind(SocketAddr::from((client.address, 0))).unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(&pattern(100)).unwrap();
    let error = socket.recv(&mut [0; 8]).expect_err("an ICMP error");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
}

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

#[test]
fn offloaded_checksums_and_gso_survive_service_translation() {
    let network = Network::create();
    network.datapath.service(1, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    network.datapath.service(2, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let (client, server) = ((network.client.end(), at(VIP, 80)), (network.server.end(), 8080));
    transfer_tcp(&network, client, server, Outcome::Translated);
    transfer_udp(network.client.end(), at(VIP, 53), network.server.end(), 5353);
}

#[test]
fn offloaded_checksums_and_gso_survive_masquerade() {
    let network = Network::create();
    let (client, server) = ((network.client.end(), at(EXTERNAL, 443)), (network.external(), 443));
    transfer_tcp(&network, client, server, Outcome::Masqueraded);
    transfer_udp(network.client.end(), at(EXTERNAL, 53), network.external(), 53);
}

#[test]
fn offloaded_checksums_and_gso_survive_hairpin_translation() {
    let network = Network::create();
    network.datapath.service(1, (VIP, 80, proto::TCP), &[(CLIENT, 8080)]);
    network.datapath.service(2, (VIP, 53, proto::UDP), &[(CLIENT, 5353)]);
    let (client, server) = ((network.client.end(), at(VIP, 80)), (network.client.end(), 8080));
    transfer_tcp(&network, client, server, Outcome::Translated);
    network.assert_counted(&[Outcome::Translated, Outcome::Masqueraded, Outcome::Restored]);
    transfer_udp(network.client.end(), at(VIP, 53), network.client.end(), 5353);
}

#[test]
fn offloaded_checksums_and_gso_survive_translation_for_external_clients() {
    let network = Network::create();
    network.datapath.service(1, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    network.datapath.service(2, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let (client, server) = ((network.external(), at(VIP, 80)), (network.server.end(), 8080));
    transfer_tcp(&network, client, server, Outcome::Translated);
    network.assert_counted(&[Outcome::Translated, Outcome::Masqueraded, Outcome::Restored]);
    transfer_udp(network.external(), at(VIP, 53), network.server.end(), 5353);
}

#[test]
fn icmp_errors_about_packets_with_offloaded_checksums_reach_the_socket() {
    let network = Network::create();
    network.datapath.service(1, (VIP, 54, proto::UDP), &[(SERVER, 5454)]);
    network.datapath.service(2, (OTHER_VIP, 54, proto::UDP), &[(CLIENT, 5454)]);
    network.datapath.service(3, (OTHER_VIP, 55, proto::UDP), &[]);
    expect_refused(network.client.end(), at(VIP, 54));
    expect_refused(network.client.end(), at(EXTERNAL, 54));
    expect_refused(network.client.end(), at(OTHER_VIP, 54));
    expect_refused(network.external(), at(VIP, 54));
    // No endpoint: the programs make the ICMP error from the packet with the partial checksum.
    expect_refused(network.client.end(), at(OTHER_VIP, 55));
    expect_refused(network.external(), at(OTHER_VIP, 55));
    network.assert_counted(&[Outcome::Restored, Outcome::Rejected]);
}

#[test]
fn a_packet_that_the_pod_hook_sent_to_the_uplink_is_not_processed_again_there() {
    let network = Network::create();
    // Not masqueraded, so that the uplink sees the pod's own address again.
    network.datapath.network(ROUTER, 32, network_kind::OTHER_NODE);
    let router = End { namespace: &network.external, address: ROUTER };
    exchange(network.client.end(), at(ROUTER, 53), router, 53);
    let counters = network.datapath.counters();
    let packets = |outcome: Outcome| counters.get(outcome.label()).map(|counter| counter.packets);
    assert_eq!((packets(Outcome::ToUplink), packets(Outcome::ToPod)), (Some(1), Some(1)));
}
