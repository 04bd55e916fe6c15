//! Destroys UDP sockets that are connected to backends that left their Service.
//!
//! A connected UDP socket is translated once, in connect(2). When its backend leaves the Service,
//! the program is not informed; destroying the socket makes recv(2) fail with ECONNABORTED, and a
//! resolver or client library connects again, to another backend. Unconnected sockets are
//! translated at each send and are left alone.
//!
//! The kernel reports the socket storage, which names the backend id of each translation, for TCP
//! sockets only (`inet_sk_diag_fill`). So a socket that another Service translated to the same
//! address and port, or that a program connected directly to it, is destroyed too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};
use sluice_abi::{Addr, PortBe, proto};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::kernel::Peer;

/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// State of a connected UDP socket: TCP_ESTABLISHED.
const ESTABLISHED: u32 = 1 << 1;

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Header {
    length: [u8; 4],
    kind: [u8; 2],
    flags: [u8; 2],
    sequence: [u8; 4],
    port: [u8; 4],
}

/// `struct inet_diag_sockid`
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct SockId {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    interface: [u8; 4],
    cookie: [u8; 8],
}

/// `struct inet_diag_req_v2`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: [u8; 4],
    id: SockId,
}

/// Start of `struct inet_diag_msg`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Response {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SockId,
}

const _: () = assert!(size_of::<Header>() == 16 && size_of::<Request>() == 56);

/// Destroys the UDP sockets connected to `peers`, in the node's network namespace and in
/// `namespaces`. Runs in a thread of its own, because it changes its network namespace.
///
/// # Errors
/// The thread cannot be started. Later failures are logged.
pub fn destroy_in_background(
    peers: BTreeSet<Peer>,
    namespaces: BTreeSet<PathBuf>,
) -> io::Result<()> {
    let work = move || {
        let mut destroyed = report(Path::new("(node)"), destroy_connected(&peers));
        for path in &namespaces {
            destroyed += report(path, destroy_in(path, &peers));
        }
        if destroyed > 0 {
            tracing::info!(
                sockets = destroyed,
                backends = peers.len(),
                "UDP sockets of removed backends closed"
            );
        }
    };
    std::thread::Builder::new().name("close-sockets".to_owned()).spawn(work).map(drop)
}

fn report(namespace: &Path, result: io::Result<usize>) -> usize {
    match result {
        Ok(n) => n,
        // The pod was removed meanwhile, together with its sockets.
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!(
                namespace = %namespace.display(),
                %error,
                "could not close UDP sockets of removed backends"
            );
            0
        }
    }
}

/// Enters a namespace and stays in it: only for a thread that ends soon.
fn destroy_in(namespace: &Path, peers: &BTreeSet<Peer>) -> io::Result<usize> {
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    destroy_connected(peers)
}

fn destroy_connected(peers: &BTreeSet<Peer>) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut destroyed = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&socket, family)? {
            let peer = peer_of(family, &id);
            if !peers.contains(&peer) {
                continue;
            }
            match destroy(&socket, family, id) {
                Ok(()) => destroyed += 1,
                // Closed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    let address = IpAddr::from(peer.0);
                    return Err(io::Error::other(format!("close a socket to {address}: {e}")));
                }
            }
        }
    }
    Ok(destroyed)
}

fn peer_of(family: u8, id: &SockId) -> Peer {
    let address = match i32::from(family) {
        libc::AF_INET => Addr::v4([id.dst[0], id.dst[1], id.dst[2], id.dst[3]]),
        _ => Addr(id.dst),
    };
    (address, PortBe(id.dport))
}

fn message(kind: u16, flags: u16, family: u8, states: u32, id: SockId) -> Vec<u8> {
    let length = (size_of::<Header>() + size_of::<Request>()) as u32;
    let header = Header {
        length: length.to_ne_bytes(),
        kind: kind.to_ne_bytes(),
        flags: (NLM_F_REQUEST | flags).to_ne_bytes(),
        sequence: [0; 4],
        port: [0; 4],
    };
    let request = Request {
        family,
        protocol: proto::UDP,
        extensions: 0,
        pad: 0,
        states: states.to_ne_bytes(),
        id,
    };
    [header.as_bytes(), request.as_bytes()].concat()
}

fn connected(socket: &Socket, family: u8) -> io::Result<Vec<SockId>> {
    socket.send(
        &message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, ESTABLISHED, SockId::default()),
        0,
    )?;
    let mut found = Vec::new();
    let mut done = false;
    while !done {
        let (data, _) = socket.recv_from_full()?;
        each_message(&data, |kind, payload| {
            match kind {
                NLMSG_DONE => done = true,
                NLMSG_ERROR => {
                    done = true;
                    return error_of(payload);
                }
                SOCK_DIAG_BY_FAMILY => {
                    if let Ok((response, _)) = Response::read_from_prefix(payload) {
                        found.push(response.id);
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn destroy(socket: &Socket, family: u8, id: SockId) -> io::Result<()> {
    socket.send(&message(SOCK_DESTROY, NLM_F_ACK, family, ESTABLISHED, id), 0)?;
    let (data, _) = socket.recv_from_full()?;
    each_message(
        &data,
        |kind, payload| {
            if kind == NLMSG_ERROR { error_of(payload) } else { Ok(()) }
        },
    )
}

fn error_of(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn each_message(
    mut data: &[u8],
    mut visit: impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    while let Ok((header, _)) = Header::read_from_prefix(data) {
        let length = u32::from_ne_bytes(header.length) as usize;
        let Some(payload) = data.get(size_of::<Header>()..length) else { break };
        visit(u16::from_ne_bytes(header.kind), payload)?;
        let Some(rest) = data.get(length.next_multiple_of(4)..) else { break };
        data = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Uses sockets of this process on the loopback device. Destroying them requires root.
    #[test]
    fn only_sockets_connected_to_the_backend_are_found() {
        let backend = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(backend.local_addr().unwrap()).unwrap();
        let netlink = Socket::new(NETLINK_SOCK_DIAG).unwrap();
        netlink.connect(&SocketAddr::new(0, 0)).unwrap();
        let port = PortBe::new(backend.local_addr().unwrap().port());
        let found = connected(&netlink, libc::AF_INET as u8).unwrap();
        let ours: Vec<_> = found.iter().filter(|id| id.dport == port.0).collect();
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0].sport, client.local_addr().unwrap().port().to_be_bytes());
        let peer = peer_of(libc::AF_INET as u8, ours[0]);
        assert_eq!(peer, (Addr::v4([127, 0, 0, 1]), port));
    }
}
