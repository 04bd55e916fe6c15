//! Ends UDP sockets whose backend is gone.
//!
//! A connected UDP socket was translated once, at connect(2). When its backend leaves the Service
//! nothing tells the program; destroying the socket does (recv gives ECONNABORTED), and a resolver
//! or a client library connects anew, to a backend that lives. Unconnected sockets are translated
//! at each send and need nothing.
//!
//! The kernel does not tell whether a socket was translated: a socket that a program connected to
//! the very address and port of the backend by itself is ended too. Its peer is gone as well, or
//! about to go, but for a backend that only stopped being ready.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};
use sluice_abi::{Addr, Backend, proto};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// A connected UDP socket calls itself established (TCP_ESTABLISHED).
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
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SockId,
}

const _: () = assert!(size_of::<Header>() == 16 && size_of::<Request>() == 56);

/// Ends the UDP sockets connected to `backends`, in the node's own network namespace and in those
/// that `namespaces` names, on a thread of its own because it changes namespaces.
pub fn end_stale_udp(backends: &[Backend], namespaces: impl FnOnce() -> Vec<PathBuf>) {
    let stale: BTreeSet<(Addr, u16)> =
        backends.iter().filter(|b| b.proto == proto::UDP).map(|b| (b.addr, b.port.get())).collect();
    if stale.is_empty() {
        return;
    }
    let namespaces = namespaces();
    let work = move || {
        let mut ended = report(Path::new("(node)"), end_here(&stale));
        for path in &namespaces {
            ended += report(path, end_in(path, &stale));
        }
        if ended > 0 {
            tracing::info!(ended, backends = stale.len(), "UDP sockets of gone backends");
        }
    };
    if let Err(e) = std::thread::Builder::new().name("end-sockets".to_owned()).spawn(work) {
        tracing::warn!(error = %e, "UDP sockets of gone backends stay");
    }
}

fn report(place: &Path, result: io::Result<usize>) -> usize {
    match result {
        Ok(n) => n,
        // The pod went meanwhile, and its sockets with it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => {
            tracing::warn!(namespace = %place.display(), error = %e, "UDP sockets of gone backends stay");
            0
        }
    }
}

/// Enters a namespace for good: only for a thread that ends soon.
fn end_in(namespace: &Path, stale: &BTreeSet<(Addr, u16)>) -> io::Result<usize> {
    setns(open_namespace(namespace)?, CloneFlags::CLONE_NEWNET)?;
    end_here(stale)
}

/// In the agent's own image /var/run does not lead to /run.
fn open_namespace(path: &Path) -> io::Result<File> {
    File::open(path).or_else(|e| match path.strip_prefix("/var/run") {
        Ok(rest) => File::open(Path::new("/run").join(rest)),
        Err(_) => Err(e),
    })
}

fn end_here(stale: &BTreeSet<(Addr, u16)>) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in connected(&socket, family)? {
            let peer = match family as i32 {
                libc::AF_INET => Addr::v4([id.dst[0], id.dst[1], id.dst[2], id.dst[3]]),
                _ => Addr(id.dst),
            };
            if stale.contains(&(peer, u16::from_be_bytes(id.dport))) {
                match destroy(&socket, family, id) {
                    Ok(()) => ended += 1,
                    // Closed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => {
                        let peer = IpAddr::from(peer);
                        return Err(io::Error::other(format!("end a socket to {peer}: {e}")));
                    }
                }
            }
        }
    }
    Ok(ended)
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
                    if let Ok((answer, _)) = Answer::read_from_prefix(payload) {
                        found.push(answer.id);
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

    use sluice_abi::PortBe;

    use super::*;

    /// Sockets of this very process on the loopback device; ending them needs root.
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
        assert_eq!(ours[0].dst[..4], [127, 0, 0, 1]);
    }
}
