//! Clients that send requests and exit.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netns_tests::peer::{Exchange, Response};
use netns_tests::scaled;
use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{deadline, error_name};

/// Time for the response to a datagram, which is not sent again.
const DATAGRAM_DEADLINE: Duration = Duration::from_millis(1500);

pub fn connect_times(protocol: &str, server: &str, options: &[&str]) -> Vec<Exchange> {
    let (mut times, mut from, mut size) = (1, 0u16, 0);
    let mut deadline =
        if protocol == "tcp" { crate::deadline() } else { scaled(DATAGRAM_DEADLINE) };
    for option in options.chunks(2) {
        match option {
            ["--times", n] => times = n.parse().unwrap(),
            ["--from", port] => from = port.parse().unwrap(),
            ["--size", bytes] => size = bytes.parse().unwrap(),
            ["--deadline-ms", ms] => {
                deadline = scaled(Duration::from_millis(ms.parse().unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    let server: SocketAddr = server.parse().unwrap();
    let exchange = || match protocol {
        "tcp" => tcp_once(server, from, deadline),
        "udp" => udp(from, deadline).and_then(|s| udp_once(&s, server, size)),
        "udp-connected" => {
            udp_connected(server, from, deadline).and_then(|s| udp_connected_once(&s, size))
        }
        other => panic!("{other}"),
    };
    (0..times).map(|_| exchange().map_err(|e| error_name(&e))).collect()
}

fn tcp_once(
    server: SocketAddr,
    from: u16,
    deadline: Duration,
) -> io::Result<(Response, SocketAddr)> {
    let stream = tcp(server, from, deadline)?;
    let peer = stream.peer_addr()?;
    Ok((request(&mut BufReader::new(stream))?, peer))
}

/// A connection, from a source port if that is not 0.
pub fn tcp(server: SocketAddr, from: u16, deadline: Duration) -> io::Result<TcpStream> {
    let SocketAddr::V4(server) = server else { panic!("{server}: IPv4 only") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let deadline = TimeVal::milliseconds(i64::try_from(deadline.as_millis()).unwrap());
    setsockopt(&fd, sockopt::SendTimeout, &deadline)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &deadline)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    if from != 0 {
        // Closed by a reset, so that the port is free at once for the next connection.
        setsockopt(&fd, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, from)))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrIn::from(server)) {
        // connect(2) returns this when SO_SNDTIMEO expires.
        Err(Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(TcpStream::from(fd)),
    }
}

/// One request on a connection.
pub fn request(stream: &mut BufReader<TcpStream>) -> io::Result<Response> {
    stream.get_mut().write_all(b"who\n")?;
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

pub fn udp(from: u16, deadline: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, from))?;
    socket.set_read_timeout(Some(deadline))?;
    Ok(socket)
}

pub fn udp_connected(server: SocketAddr, from: u16, deadline: Duration) -> io::Result<UdpSocket> {
    let socket = udp(from, deadline)?;
    socket.connect(server)?;
    Ok(socket)
}

pub fn udp_once(
    socket: &UdpSocket,
    server: SocketAddr,
    size: usize,
) -> io::Result<(Response, SocketAddr)> {
    socket.send_to(&vec![b'w'; size.max(3)], server)?;
    receive(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<(Response, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    Ok((serde_json::from_slice(&buffer[..length])?, peer))
}

pub fn udp_connected_once(socket: &UdpSocket, size: usize) -> io::Result<(Response, SocketAddr)> {
    socket.send(&vec![b'w'; size.max(3)])?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    Ok((serde_json::from_slice(&buffer[..length])?, socket.peer_addr()?))
}

/// Sends all requests from one socket before it receives: the source address of a response is
/// translated when the program receives it, by the translations of the socket at that time.
pub fn connect_each(servers: &[&str]) -> Vec<(String, String)> {
    let socket = udp(0, deadline()).unwrap();
    for server in servers {
        let server: SocketAddr = server.parse().unwrap();
        socket.send_to(b"who", server).unwrap();
    }
    servers
        .iter()
        .map(|_| match receive(&socket) {
            Ok((response, peer)) => (response.server, peer.to_string()),
            Err(e) => (error_name(&e), String::new()),
        })
        .collect()
}

pub fn download(server: &str, bytes: usize) -> Result<usize, String> {
    let fetch = || {
        let mut stream = tcp(server.parse().unwrap(), 0, deadline())?;
        writeln!(stream, "get {bytes}")?;
        let mut content = vec![0; bytes];
        stream.read_exact(&mut content)?;
        Ok(content.len())
    };
    fetch().map_err(|e: io::Error| error_name(&e))
}

pub fn upload(server: &str, bytes: usize) -> Result<usize, String> {
    let send = || {
        let mut stream = tcp(server.parse().unwrap(), 0, deadline())?;
        writeln!(stream, "put {bytes}")?;
        stream.write_all(&vec![b'x'; bytes])?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        line.trim_end().parse().map_err(io::Error::other)
    };
    send().map_err(|e: io::Error| error_name(&e))
}
