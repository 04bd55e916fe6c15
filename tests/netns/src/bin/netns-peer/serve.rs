//! Servers. With TCP a line is a request: `who`, `get BYTES`, `put BYTES` (followed by them). With
//! UDP the response to a datagram has the same size, or that of its content if that is longer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use netns_tests::peer::Response;

use crate::print_line;

pub fn serve(name: &str, ports: &[&str]) {
    for port in ports {
        let (protocol, number) = port.split_once(':').unwrap();
        let address = (Ipv4Addr::UNSPECIFIED, number.parse().unwrap());
        let name = name.to_owned();
        match protocol {
            "tcp" => {
                let listener = TcpListener::bind(address).unwrap();
                thread::spawn(move || accept(&name, &listener));
            }
            "udp" => {
                let socket = UdpSocket::bind(address).unwrap();
                thread::spawn(move || datagrams(&name, &socket));
            }
            other => panic!("{other}"),
        }
    }
    print_line("ready");
    wait_for_input_end();
}

fn accept(name: &str, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        // A client that disconnects ends only its own connection.
        thread::spawn(move || drop(handle(&name, stream)));
    }
}

fn handle(name: &str, stream: TcpStream) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    let local = stream.local_addr()?;
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split(' ').collect::<Vec<_>>().as_slice() {
            ["who"] => {
                let response = Response { server: name.to_owned(), client, local };
                writeln!(output, "{}", serde_json::to_string(&response)?)?;
            }
            ["get", bytes] => {
                output.write_all(&vec![b'x'; bytes.parse().unwrap()])?;
            }
            ["put", bytes] => {
                let mut content = vec![0; bytes.parse().unwrap()];
                input.read_exact(&mut content)?;
                writeln!(output, "{}", content.len())?;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn datagrams(name: &str, socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((size, client)) = socket.recv_from(&mut buffer) else { continue };
        let local = socket.local_addr().unwrap();
        let response = Response { server: name.to_owned(), client, local };
        let mut text = serde_json::to_vec(&response).unwrap();
        text.resize(text.len().max(size), b' ');
        let _ = socket.send_to(&text, client);
    }
}

pub fn receive(port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    print_line("ready");
    let mut buffer = [0; 2048];
    loop {
        let (_, sender) = socket.recv_from(&mut buffer).unwrap();
        print_line(&sender.ip().to_string());
    }
}

/// The test closes standard input, or kills the server.
fn wait_for_input_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
