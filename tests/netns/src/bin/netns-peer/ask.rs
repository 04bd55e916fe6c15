//! Clients that ask and are done.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use netns_tests::peer::{Answer, Asked};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{PATIENCE, name};

pub fn ask(how: &str, server: &str, options: &[&str]) -> Vec<Asked> {
    let (mut times, mut from, mut size) = (1, 0u16, 0);
    for option in options.chunks(2) {
        match option {
            ["--times", n] => times = n.parse().unwrap(),
            ["--from", port] => from = port.parse().unwrap(),
            ["--size", bytes] => size = bytes.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let server: SocketAddr = server.parse().unwrap();
    (0..times)
        .map(|_| {
            match how {
                "tcp" => tcp_once(server, from),
                "udp" => udp(from).and_then(|s| udp_once(&s, server, size)),
                "udp-connected" => {
                    udp_connected(server, from).and_then(|s| udp_connected_once(&s, size))
                }
                other => panic!("{other}"),
            }
            .map_err(|e| name(&e))
        })
        .collect::<Vec<_>>()
}

fn tcp_once(server: SocketAddr, from: u16) -> io::Result<(Answer, SocketAddr)> {
    let stream = tcp(server, from)?;
    let peer = stream.peer_addr()?;
    Ok((who(&mut BufReader::new(stream))?, peer))
}

/// A connection, from a source port if that is not 0.
pub fn tcp(server: SocketAddr, from: u16) -> io::Result<TcpStream> {
    let SocketAddr::V4(server) = server else { panic!("{server}: IPv4 only") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap());
    setsockopt(&fd, sockopt::SendTimeout, &patience)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    if from != 0 {
        // Closed by a reset, so that the port is free at once for the next of several.
        setsockopt(&fd, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, from)))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrIn::from(server)) {
        // What connect(2) says when SO_SNDTIMEO is over.
        Err(nix::errno::Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(TcpStream::from(fd)),
    }
}

/// One request on a connection.
pub fn who(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    stream.get_mut().write_all(b"who\n")?;
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

pub fn udp(from: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, from))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub fn udp_connected(server: SocketAddr, from: u16) -> io::Result<UdpSocket> {
    let socket = udp(from)?;
    socket.connect(server)?;
    Ok(socket)
}

pub fn udp_once(
    socket: &UdpSocket,
    server: SocketAddr,
    size: usize,
) -> io::Result<(Answer, SocketAddr)> {
    socket.send_to(&vec![b'w'; size.max(3)], server)?;
    let mut buffer = vec![0; 65_536];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    Ok((serde_json::from_slice(&buffer[..length])?, peer))
}

pub fn udp_connected_once(socket: &UdpSocket, size: usize) -> io::Result<(Answer, SocketAddr)> {
    socket.send(&vec![b'w'; size.max(3)])?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    Ok((serde_json::from_slice(&buffer[..length])?, socket.peer_addr()?))
}

pub fn download(server: &str, bytes: usize) -> Result<usize, String> {
    let fetch = || {
        let mut stream = tcp(server.parse().unwrap(), 0)?;
        writeln!(stream, "get {bytes}")?;
        let mut content = vec![0; bytes];
        stream.read_exact(&mut content)?;
        Ok(content.len())
    };
    fetch().map_err(|e: io::Error| name(&e))
}

pub fn upload(server: &str, bytes: usize) -> Result<usize, String> {
    let send = || {
        let mut stream = tcp(server.parse().unwrap(), 0)?;
        writeln!(stream, "put {bytes}")?;
        stream.write_all(&vec![b'x'; bytes])?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        line.trim_end().parse().map_err(io::Error::other)
    };
    send().map_err(|e: io::Error| name(&e))
}
