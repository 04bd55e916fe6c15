//! The server: one thread per connection; the first byte of a connection selects what it does. Datagrams
//! are returned.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

use crate::{BLOCK, Mode, datagram};

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
fn accept(listener: &TcpListener) {
    for stream in listener.incoming() {
        match stream {
            // A connection that breaks ends its own thread only.
            Ok(stream) => drop(std::thread::spawn(move || serve(stream))),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

/// Serves one connection until its client closes it.
///
/// # Errors
/// When the connection breaks.
pub fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    if tag[0] == Mode::Stream.tag() { acknowledge(stream) } else { echo(stream, tag[0]) }
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

/// Answers each whole block of [`BLOCK`] bytes with one byte.
fn acknowledge(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            n => filled += n,
        }
        if filled == BLOCK {
            stream.write_all(&[0])?;
            filled = 0;
        }
    }
}
