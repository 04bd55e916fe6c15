//! The answering side: a thread per connection, told by the first byte what to do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

use crate::Mode;

/// Serves until killed.
pub fn run(port: u16) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))?;
    for stream in listener.incoming() {
        match stream {
            // A client that goes away in the middle ends its own thread, nobody else's.
            Ok(stream) => drop(std::thread::spawn(move || serve(stream))),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    if tag[0] == Mode::Stream.tag() { count(stream) } else { echo(stream, tag[0]) }
}

/// Sends each byte back, the first one too.
fn echo(mut stream: TcpStream, first: u8) -> std::io::Result<()> {
    let mut byte = [first];
    loop {
        stream.write_all(&byte)?;
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
    }
}

/// Reads to the end, then answers with the number of bytes (8 bytes, big endian).
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
