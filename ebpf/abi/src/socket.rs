//! What a socket asked for before its destination was translated.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// One translation that a socket's peer addresses are mapped back by.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketOrigin {
    /// Address the socket really talks to.
    pub backend: Addr,
    /// Address the program asked for.
    pub frontend: Addr,
    /// Port the socket really talks to.
    pub backend_port: PortBe,
    /// Port the program asked for.
    pub frontend_port: PortBe,
    /// Id of the backend: a datagram socket keeps its backend as long as this id has its address.
    pub backend_id: u32,
}

const _: () = assert!(size_of::<SocketOrigin>() == 40);

/// Socket storage: the translations of one socket, newest overwriting oldest. It lives and dies
/// with the socket, so no eviction can take the answer to an idle resolver's question away.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketOrigins {
    /// Index that the next translation is written to, modulo the length.
    pub next: u32,
    /// The newest translations.
    pub origins: [SocketOrigin; 8],
}
