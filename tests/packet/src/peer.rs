//! Peers of sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The peer of a UDP socket after `connect`, as `getpeername` returns it: without the program of that call,
/// the destination of its packets.
///
/// # Errors
/// Those of `connect`.
pub fn udp_peer(to: impl Into<SocketAddr>) -> Result<SocketAddr, ErrorKind> {
    let to = to.into();
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect(to).map_err(|e| e.kind())?;
    Ok(socket.peer_addr().unwrap())
}
