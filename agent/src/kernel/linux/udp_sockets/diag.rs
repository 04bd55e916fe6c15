//! The kernel's list of UDP sockets, and destruction of single ones: sock_diag(7), `linux/inet_diag.h`.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use sluice_abi::{Addr, PortBe, proto};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Address family of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 sockets.
    V4 = libc::AF_INET as isize,
    /// IPv6 sockets, whose peers may be v4-mapped addresses.
    V6 = libc::AF_INET6 as isize,
}

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
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
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

/// A socket that the kernel has listed.
#[derive(Clone, Copy, Debug)]
pub struct SocketId {
    family: Family,
    id: SockId,
}

impl SocketId {
    /// The cookie, as `SO_COOKIE` and `bpf_get_socket_cookie` have it.
    pub fn cookie(&self) -> u64 {
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        u64::from(high) << 32 | u64::from(low)
    }

    /// Address and port of the peer.
    pub fn peer(&self) -> (Addr, PortBe) {
        let dst = self.id.dst;
        let address = match self.family {
            Family::V4 => Addr::v4([dst[0], dst[1], dst[2], dst[3]]),
            Family::V6 => Addr(dst),
        };
        (address, PortBe(self.id.dport))
    }
}

/// A netlink socket in the network namespace in which it was opened.
pub struct Diag(Socket);

impl Diag {
    /// Opens one.
    ///
    /// # Errors
    /// No socket is available.
    pub fn open() -> io::Result<Diag> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Diag(socket))
    }

    /// Lists the connected UDP sockets.
    ///
    /// # Errors
    /// ENOENT if the kernel has no `udp_diag`; any other error of the kernel.
    pub fn connected(&mut self, family: Family) -> io::Result<Vec<SocketId>> {
        let id = SockId::default();
        self.0.send(&message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, id), 0)?;
        let mut found = Vec::new();
        let mut done = false;
        while !done {
            let (data, _) = self.0.recv_from_full()?;
            each_message(&data, |kind, payload| {
                match kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        done = true;
                        return error_of(payload);
                    }
                    SOCK_DIAG_BY_FAMILY => {
                        if let Ok((response, _)) = Response::read_from_prefix(payload) {
                            found.push(SocketId { family, id: response.id });
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Destroys a socket: its program gets ECONNABORTED. The kernel compares the cookie.
    ///
    /// # Errors
    /// ENOENT if it does not exist any more, EOPNOTSUPP if the kernel lacks `CONFIG_INET_DIAG_DESTROY`, EPERM
    /// without CAP_NET_ADMIN.
    pub fn destroy(&mut self, family: Family, socket: &SocketId) -> io::Result<()> {
        self.0.send(&message(SOCK_DESTROY, NLM_F_ACK, family, socket.id), 0)?;
        let (data, _) = self.0.recv_from_full()?;
        each_message(
            &data,
            |kind, payload| {
                if kind == NLMSG_ERROR { error_of(payload) } else { Ok(()) }
            },
        )
    }
}

fn message(kind: u16, flags: u16, family: Family, id: SockId) -> Vec<u8> {
    let length = (size_of::<Header>() + size_of::<Request>()) as u32;
    let header = Header {
        length: length.to_ne_bytes(),
        kind: kind.to_ne_bytes(),
        flags: (NLM_F_REQUEST | flags).to_ne_bytes(),
        sequence: [0; 4],
        port: [0; 4],
    };
    let request = Request {
        family: family as u8,
        protocol: proto::UDP,
        extensions: 0,
        pad: 0,
        states: ESTABLISHED.to_ne_bytes(),
        id,
    };
    [header.as_bytes(), request.as_bytes()].concat()
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
