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

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use packet_tests::namespace::Namespace;
use packet_tests::*;
use sluice_abi::{Outcome, program, proto};
use sluice_bpf::attach::{Direction, Mechanism, attach_device_by};
use sluice_bpf::netlink::Netlink;

/// Deadline of every socket call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a TCP transfer: many GSO packets.
const BULK: usize = 1 << 20;
/// Payload of one datagram of a UDP GSO send.
const SEGMENT: usize = 1000;
const OTHER_VIP: [u8; 4] = [10, 96, 0, 51];

/// A socket's end: its namespace, and the address that it is bound to.
#[derive(Clone, Copy)]
struct End<'a> {
    namespace: &'a Namespace,
    address: [u8; 4],
}

struct Lab {
    datapath: Datapath,
    // Dropped in this order: an attached program lives as long as its device.
    client: Pod,
    server: Pod,
    external: Namespace,
    _node: Namespace,
}

struct Pod {
    app: Namespace,
    _pod: Namespace,
    address: [u8; 4],
}

impl Pod {
    fn create(node: &Namespace, name: &str, address: [u8; 4]) -> Pod {
        let pod = Namespace::create(name);
        let app = Namespace::create(&format!("{name}-app"));
        let ip = std::net::Ipv4Addr::from(address);
        let mac = format!("02:00:00:00:01:{:02x}", address[3]);
        node.shell(&format!(
            "ip link add {name} address 02:00:00:00:01:ee type veth \
                 peer name eth0 address {mac} netns {pod}
             ip link set {name} up
             ip route add {ip} dev {name}
             ip neigh replace {ip} lladdr {mac} dev {name} nud permanent
             sysctl -qw net.ipv4.conf.{name}.rp_filter=0",
            pod = pod.name(),
        ));
        pod.shell(&format!(
            "ip link add app0 address 02:00:00:00:02:01 type veth \
                 peer name eth0 address 02:00:00:00:02:02 netns {app}
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.app0.rp_filter=0 \
                 net.ipv4.conf.eth0.send_redirects=0 net.ipv4.conf.all.send_redirects=0
             ip link set eth0 up
             ip link set app0 up
             ip addr add 169.254.2.1/32 dev app0
             ip route add {ip} dev app0
             ip neigh replace {ip} lladdr 02:00:00:00:02:02 dev app0 nud permanent
             ip route add default via 169.254.1.1 dev eth0 onlink
             ip neigh replace 169.254.1.1 lladdr 02:00:00:00:01:ee dev eth0 nud permanent
             ethtool -K app0 tx off > /dev/null",
            app = app.name(),
        ));
        app.shell(&format!(
            "ip addr add {ip}/32 dev eth0
             ip link set eth0 up
             ip route add default via 169.254.2.1 dev eth0 onlink
             ip neigh replace 169.254.2.1 lladdr 02:00:00:00:02:01 dev eth0 nud permanent
             ethtool -k eth0 | grep -q 'tx-checksum-ip-generic: on'
             ethtool -k eth0 | grep -q 'tcp-segmentation-offload: on'"
        ));
        Pod { app, _pod: pod, address }
    }

    fn end(&self) -> End<'_> {
        End { namespace: &self.app, address: self.address }
    }
}

impl Lab {
    fn create() -> Lab {
        let node = Namespace::create("node");
        let client = Pod::create(&node, "client", CLIENT);
        let server = Pod::create(&node, "server", SERVER);
        let external = Namespace::create("external");
        node.shell(&format!(
            "ip link add up0 type veth peer name eth0 netns {}
             ip addr add 172.18.0.2/16 dev up0
             ip link set up0 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.up0.rp_filter=0
             ip route add default via 172.18.0.1
             ethtool -K up0 tx off > /dev/null",
            external.name(),
        ));
        external.shell(
            "ip addr add 172.18.0.1/16 dev eth0
             ip addr add 198.51.100.7/32 dev lo
             ip link set eth0 up
             ip route add 10.96.0.0/16 via 172.18.0.2 src 198.51.100.7
             ethtool -k eth0 | grep -q 'tx-checksum-ip-generic: on'",
        );
        let datapath = Datapath::node();
        node.run(|| attach(&datapath));
        Lab { datapath, client, server, external, _node: node }
    }

    fn external(&self) -> End<'_> {
        End { namespace: &self.external, address: EXTERNAL }
    }

    /// Segments of one counter per counted packet tell whether GSO packets passed the programs.
    fn assert_gso(&self, outcome: Outcome) {
        let counter = self.datapath.counters()[outcome.label()];
        let mean = counter.bytes / counter.packets;
        assert!(mean > 1600, "packets counted as {} have {mean} bytes: no GSO", outcome.label());
    }

    fn assert_counted(&self, outcomes: &[Outcome]) {
        let counters = self.datapath.counters();
        for outcome in outcomes {
            assert!(counters.contains_key(outcome.label()), "{outcome:?}: {counters:?}");
        }
    }
}

/// Attaches the tc programs to the devices of the node, and writes its pods.
fn attach(datapath: &Datapath) {
    let mut netlink = Netlink::open().unwrap();
    let index = |name: &str| {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: the name is a valid C string.
        unsafe { libc::if_nametoindex(name.as_ptr()) }
    };
    let devices = [
        ("client", program::FROM_POD, program::TO_POD),
        ("server", program::FROM_POD, program::TO_POD),
        ("up0", program::FROM_NETDEV, program::TO_NETDEV),
    ];
    for (device, ingress, egress) in devices {
        for (direction, name) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
            let prog = datapath.fd(name);
            attach_device_by(&mut netlink, index(device), direction, prog, Mechanism::Clsact)
                .unwrap_or_else(|e| panic!("{device} {direction:?}: {e}"));
        }
    }
    datapath.local_pod(CLIENT, index("client"));
    datapath.local_pod(SERVER, index("server"));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Sends [`BULK`] bytes to `to`, which `server` has to receive at `port`, and the same back.
fn transfer_tcp(client: End<'_>, to: SocketAddr, server: End<'_>, port: u16) {
    let listener = server
        .namespace
        .run(|| TcpListener::bind(SocketAddr::from((server.address, port))).unwrap());
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_write_timeout(Some(DEADLINE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            received
        });
        let connected = client.namespace.run(|| TcpStream::connect_timeout(&to, DEADLINE));
        if connected.is_err() {
            // Ends `accept`, from the server's own namespace.
            server.namespace.run(|| {
                drop(TcpStream::connect(SocketAddr::from((server.address, port))));
            });
        }
        let mut stream = connected.unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&pattern(BULK)).unwrap_or_else(|e| panic!("write to {to}: {e}"));
        stream.shutdown(Shutdown::Write).unwrap();
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned).unwrap_or_else(|e| panic!("read from {to}: {e}"));
        assert!(echo.join().unwrap() == pattern(BULK), "the server received other bytes");
        assert!(returned == pattern(BULK), "the client received other bytes");
    });
}

/// Sends one datagram and one GSO packet of ten to `to`, and returns them.
fn transfer_udp(client: End<'_>, to: SocketAddr, server: End<'_>, port: u16) {
    let bind = |end: End<'_>, port| {
        let socket =
            end.namespace.run(|| UdpSocket::bind(SocketAddr::from((end.address, port))).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let (client, server) = (bind(client, 0), bind(server, port));
    client.connect(to).unwrap();
    let mut buffer = [0; 2 * SEGMENT];
    client.send(b"single").unwrap();
    let (len, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(&buffer[..len], b"single");
    server.send_to(b"reply", from).unwrap();
    let len = client.recv(&mut buffer).expect("the reply arrives");
    assert_eq!(&buffer[..len], b"reply");

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
    let lab = Lab::create();
    lab.datapath.service(1, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    lab.datapath.service(2, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    transfer_tcp(lab.client.end(), at(VIP, 80), lab.server.end(), 8080);
    lab.assert_gso(Outcome::Translated);
    lab.assert_gso(Outcome::Restored);
    transfer_udp(lab.client.end(), at(VIP, 53), lab.server.end(), 5353);
}

#[test]
fn offloaded_checksums_and_gso_survive_masquerade() {
    let lab = Lab::create();
    transfer_tcp(lab.client.end(), at(EXTERNAL, 443), lab.external(), 443);
    lab.assert_gso(Outcome::Masqueraded);
    lab.assert_gso(Outcome::Restored);
    transfer_udp(lab.client.end(), at(EXTERNAL, 53), lab.external(), 53);
}

#[test]
fn offloaded_checksums_and_gso_survive_hairpin_translation() {
    let lab = Lab::create();
    lab.datapath.service(1, (VIP, 80, proto::TCP), &[(CLIENT, 8080)]);
    lab.datapath.service(2, (VIP, 53, proto::UDP), &[(CLIENT, 5353)]);
    transfer_tcp(lab.client.end(), at(VIP, 80), lab.client.end(), 8080);
    lab.assert_counted(&[Outcome::Translated, Outcome::Masqueraded, Outcome::Restored]);
    lab.assert_gso(Outcome::Translated);
    lab.assert_gso(Outcome::Restored);
    transfer_udp(lab.client.end(), at(VIP, 53), lab.client.end(), 5353);
}

#[test]
fn offloaded_checksums_and_gso_survive_translation_for_external_clients() {
    let lab = Lab::create();
    lab.datapath.service(1, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    lab.datapath.service(2, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    transfer_tcp(lab.external(), at(VIP, 80), lab.server.end(), 8080);
    lab.assert_counted(&[Outcome::Translated, Outcome::Masqueraded, Outcome::Restored]);
    lab.assert_gso(Outcome::Translated);
    lab.assert_gso(Outcome::Restored);
    transfer_udp(lab.external(), at(VIP, 53), lab.server.end(), 5353);
}

#[test]
fn icmp_errors_about_packets_with_offloaded_checksums_reach_the_socket() {
    let lab = Lab::create();
    lab.datapath.service(1, (VIP, 54, proto::UDP), &[(SERVER, 5454)]);
    lab.datapath.service(2, (OTHER_VIP, 54, proto::UDP), &[(CLIENT, 5454)]);
    lab.datapath.service(3, (OTHER_VIP, 55, proto::UDP), &[]);
    expect_refused(lab.client.end(), at(VIP, 54));
    expect_refused(lab.client.end(), at(EXTERNAL, 54));
    expect_refused(lab.client.end(), at(OTHER_VIP, 54));
    expect_refused(lab.external(), at(VIP, 54));
    // No endpoint: the programs make the ICMP error from the packet with the partial checksum.
    expect_refused(lab.client.end(), at(OTHER_VIP, 55));
    expect_refused(lab.external(), at(OTHER_VIP, 55));
    lab.assert_counted(&[Outcome::Restored, Outcome::Rejected]);
}
