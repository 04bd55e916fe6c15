//! Translated sockets: their original destinations, and which datagram sockets are connected to which backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// One translation of a socket, by which peer addresses are mapped back.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketOrigin {
    /// Address of the backend, or of the frontend if the socket is left to the tc programs.
    pub backend: Addr,
    /// Address that the process passed to the system call.
    pub frontend: Addr,
    /// Port of the backend.
    pub backend_port: PortBe,
    /// Port that the process passed to the system call.
    pub frontend_port: PortBe,
    /// Id of the backend. A datagram socket keeps its backend while this id has the same address.
    pub backend_id: u32,
}

const _: () = assert!(size_of::<SocketOrigin>() == 40);

/// Socket storage: the translations of one socket; the newest overwrites the oldest. The kernel
/// removes it with the socket, and no eviction removes it earlier.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketOrigins {
    /// Index of the next translation, modulo the length.
    pub next: u32,
    /// The newest translations.
    pub origins: [SocketOrigin; 8],
}

/// Value of `UDP_SOCKETS`, whose key is the cookie of the socket: what the last connect(2) of a datagram socket
/// was translated to. The socket is connected to it unless the system call failed after the translation, or the
/// socket was disconnected.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct UdpSocket {
    /// Cookie of the socket's network namespace.
    pub netns_cookie: u64,
    /// Address of the backend.
    pub backend: Addr,
    /// Address that the process passed to the system call; 127.0.0.1 for the unspecified one.
    pub frontend: Addr,
    /// Port of the backend.
    pub backend_port: PortBe,
    /// Port that the process passed to the system call.
    pub frontend_port: PortBe,
    /// Id of the backend; 0 for the pod of a hostPort.
    pub backend_id: u32,
}

const _: () = assert!(size_of::<UdpSocket>() == 48);
