//! The map of connected UDP sockets, whose rows are owned by the programs. The agent only reads it.

use sluice_abi::{UdpSocket, map};

use super::{Table, TableKind, TableSpec};

/// `UDP_SOCKETS`: cookie of a socket -> what its connect(2) was translated to.
#[derive(Clone, Copy, Debug)]
pub struct UdpSockets;

impl Table for UdpSockets {
    type Key = u64;
    type Value = UdpSocket;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<UdpSockets>(map::UDP_SOCKETS, TableKind::Hash, map::UDP_SOCKETS_MAX);
}
