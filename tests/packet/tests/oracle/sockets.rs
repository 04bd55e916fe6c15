//! Sockets of processes of the node and of a pod, connected over UDP and TCP.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, connect, getsockname,
    getsockopt, socket, sockopt,
};
use packet_tests::random::{Random, cases};
use packet_tests::*;
use proptest::strategy::{Strategy, ValueTree};
use sluice_abi::{NodeConfig, proto};
use sluice_core::oracle::Answer;

use crate::expect::{From, PODS};
use crate::realize::Realized;
use crate::{CASES, FREQUENT, PACKETS, Shares, cases_of_objects, datapath, destination, runner};

/// The peer of a socket after `connect`: without `getpeername` programs, that of its packets.
fn connected(to: SocketAddr, protocol: u8) -> Result<SocketAddr, ErrorKind> {
    if protocol == proto::UDP {
        return udp_peer(to);
    }
    let flags = SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(std::io::Error::from(errno).kind()),
        Ok(()) => panic!("{to} has accepted a connection"),
    }
    let local: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    let local = SocketAddrV4::new(local.ip(), local.port());
    let peer = peer_of_connecting(local);
    peer.ok_or_else(|| {
        // Refused by the stack, within the system call.
        let error = getsockopt(&socket, sockopt::SocketError).unwrap();
        std::io::Error::from_raw_os_error(error).kind()
    })
}

/// The peer of a TCP socket that has sent its first segment: `getpeername` has no answer before the
/// handshake, but the kernel's list of sockets has. Addresses and ports are hexadecimal there,
/// addresses as 32-bit numbers of the machine, ports as numbers.
fn peer_of_connecting(local: SocketAddrV4) -> Option<SocketAddr> {
    let endpoint = |text: &str| {
        let (address, port) = text.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        Some(SocketAddrV4::new(Ipv4Addr::from(address), u16::from_str_radix(port, 16).ok()?))
    };
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    sockets.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (own, peer) = (endpoint(fields.next()?)?, endpoint(fields.next()?)?);
        (own == local).then_some(SocketAddr::V4(peer))
    })
}

/// Makes the test process one of the node or of the first of [`PODS`].
fn enter(datapath: &Datapath, from: From) {
    let own = netns_cookie();
    let of_node = if from == From::Node { own } else { own + 1 };
    datapath.node_config(&NodeConfig { netns_cookie: of_node, ..node_config() });
    match from {
        From::Pod => datapath.enter_pod(PODS[0]),
        _ => datapath.leave_pod(),
    }
}

/// Gives the addresses of nodes that no other test has a hardware address. Otherwise the kernel asks for it for three
/// seconds, and a socket that was connected just before the end of these has no peer but "no route to host".
fn resolve_nodes() {
    for node in [4, 5] {
        let address = Ipv4Addr::new(172, 18, 0, node).to_string();
        let entry = ["lladdr", "02:00:00:00:00:09", "dev", "up0", "nud", "permanent"];
        let arguments = ["neigh", "replace", &address].into_iter().chain(entry);
        command::output(Command::new("ip").args(arguments));
    }
}

/// The least numbers of answers, see [`FREQUENT`].
const LEAST: [(&str, usize); 3] =
    [("dropped", 10), ("one endpoint", 60), ("several endpoints", 65)];

#[test]
fn connected_sockets_have_the_backends_that_the_oracle_expects() {
    let mut random = Random::from_environment();
    let mut runner = runner(&mut random);
    let object_sets = cases_of_objects();
    let mut datapath = datapath();
    resolve_nodes();
    let _cgroup = InCgroup::enter(&mut datapath, &["connect4"]);
    let mut shares = Shares::default();
    for _ in 0..cases(CASES) / 4 {
        let case = object_sets.new_tree(&mut runner).unwrap().current();
        let _realized = Realized::write(&datapath, &case);
        for _ in 0..PACKETS {
            let from = *random.pick(&[From::Pod, From::Node]);
            let (dst, port, protocol) = destination(&mut random, &case, from);
            // The addresses of these pods are in no range of pods.
            if ![proto::TCP, proto::UDP].contains(&protocol) || PODS.contains(&dst) {
                continue;
            }
            enter(&datapath, from);
            let to = SocketAddr::from((dst, port));
            let connected = connected(to, protocol);
            let answer = case.answer(from, (dst, port, protocol));
            shares.add(&answer);
            let holds = match (&answer, &connected) {
                // Packets of the node to an address of it do not reach the programs that drop them.
                (Answer::SourceNotAllowed, connected) if dst == NODE && from == From::Node => {
                    *connected == Err(ErrorKind::ConnectionRefused)
                }
                // Not translated, but the test process is on the node, and nothing listens there.
                (
                    Answer::NotAService | Answer::Dropped | Answer::SourceNotAllowed,
                    Err(ErrorKind::ConnectionRefused),
                ) if dst == NODE && protocol == proto::TCP => true,
                // The packet programs do the rest.
                (Answer::NotAService | Answer::Dropped | Answer::SourceNotAllowed, Ok(peer)) => {
                    *peer == to
                }
                (Answer::Rejected, Err(kind)) => *kind == ErrorKind::ConnectionRefused,
                (Answer::Backends { endpoints, .. }, Ok(peer)) => {
                    endpoints.contains(&(peer.ip(), peer.port()))
                }
                _ => false,
            };
            assert!(
                holds,
                "{from:?} to {to}, {protocol}: {connected:?} instead of {answer:?} with {case:#?}"
            );
        }
    }
    println!("{shares:?}");
    shares.assert_all(&FREQUENT);
    shares.assert_least(&LEAST);
}
