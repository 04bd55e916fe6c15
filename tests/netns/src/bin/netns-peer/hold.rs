//! Clients that go on until their standard input ends, and then tell how they fared. A line there
//! names a server whose answer is waited for before.

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::peer::{Answer, Held};

use crate::ask::{tcp, udp, udp_connected, udp_connected_once, udp_once, who};
use crate::{name, say};

/// Time between two requests: often enough to notice a gap of a few milliseconds.
const PAUSE: Duration = Duration::from_millis(2);
/// A datagram that takes longer than this is lost.
const LOST: Duration = Duration::from_millis(500);

/// How long a server is waited for.
const AWAITED: Duration = Duration::from_secs(10);

enum Client {
    Tcp(BufReader<TcpStream>),
    Connect(SocketAddr),
    Udp(UdpSocket, SocketAddr),
    UdpConnected(UdpSocket),
}

impl Client {
    fn open(how: &str, server: SocketAddr) -> io::Result<Client> {
        Ok(match how {
            "tcp" => {
                let stream = tcp(server, 0)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                Client::Tcp(BufReader::new(stream))
            }
            "connect" => Client::Connect(server),
            "udp" => {
                let socket = udp(0)?;
                socket.set_read_timeout(Some(LOST))?;
                Client::Udp(socket, server)
            }
            "udp-connected" => {
                let socket = udp_connected(server, 0)?;
                socket.set_read_timeout(Some(LOST))?;
                Client::UdpConnected(socket)
            }
            other => panic!("{other}"),
        })
    }

    fn ask(&mut self) -> io::Result<Answer> {
        match self {
            Client::Tcp(stream) => who(stream),
            Client::Connect(server) => who(&mut BufReader::new(tcp(*server, 0)?)),
            Client::Udp(socket, server) => udp_once(socket, *server, 0).map(|(a, _)| a),
            Client::UdpConnected(socket) => udp_connected_once(socket, 0).map(|(a, _)| a),
        }
    }
}

pub fn hold(how: &str, server: &str) -> Held {
    let server: SocketAddr = server.parse().unwrap();
    let mut held = Held { rounds: 0, longest_ms: 0, servers: vec![], failed: vec![] };
    let mut client = match Client::open(how, server) {
        Ok(client) => client,
        Err(e) => panic!("{how} {server}: {e}"),
    };
    let (word, wish) = mpsc::channel();
    thread::spawn(move || {
        // No line: the input has ended.
        let mut line = String::new();
        let _ = io::stdin().read_line(&mut line);
        let _ = word.send(line.trim_end().to_owned());
    });
    let mut awaited = None;
    loop {
        if let Ok(server) = wish.try_recv() {
            awaited = Some((server, Instant::now()));
        }
        if let Some((server, since)) = &awaited
            && (server.is_empty() || held.servers.contains(server) || since.elapsed() > AWAITED)
        {
            break;
        }
        let start = Instant::now();
        match client.ask() {
            Ok(answer) => {
                if !held.servers.contains(&answer.who) {
                    held.servers.push(answer.who);
                }
                held.rounds += 1;
                if held.rounds == 1 {
                    say("holding");
                }
            }
            Err(e) => {
                held.failed.push(name(&e));
                match client {
                    Client::Tcp(_) => break,
                    // An application that gets an error from its socket opens another one.
                    Client::UdpConnected(_) => {
                        if let Ok(another) = Client::open(how, server) {
                            client = another;
                        }
                    }
                    _ => {}
                }
            }
        }
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        held.longest_ms = held.longest_ms.max(took);
        thread::sleep(PAUSE);
    }
    held
}
