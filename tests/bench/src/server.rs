//! The server: one thread per connection; the first byte of a connection selects what it does. Datagrams
//! are returned.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

use crate::{Mode, datagram};

/// Serves clients until the process is killed.
///
/// # Errors
/// When the port cannot be bound.
pub fn run(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot bind port {port}"))?;
    std::thread::spawn(move || {
        if let Err(error) = datagram::echo(port) {
            eprintln!("{error:#}");
        }
    });
    accept(&listener);
    Ok(())
}

/// Serves every connection on a thread of its own.
pub fn accept(listener: &TcpListener) {
    for stream in listener.incoming() {
        match stream {
            // A connection that breaks ends its own thread only.
            Ok(stream) => drop(std::thread::spawn(move || serve(stream))),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    if tag[0] == Mode::Stream.tag() { count(stream) } else { echo(stream, tag[0]) }
}

/// Returns each byte, including the first.
fn echo(mut stream: TcpStream, first: u8) -> std::io::Result<()> {
    let mut byte = [first];
    loop {
        stream.write_all(&byte)?;
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
    }
}

/// Reads to the end, then sends the number of bytes (8 bytes, big endian).
fn count(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}
