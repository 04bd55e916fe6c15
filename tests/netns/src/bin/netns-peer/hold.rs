//! Clients that repeat a request until their standard input ends, and then report. A line of input
//! names a server whose response they wait for before.

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::peer::{HoldReport, Response};

use crate::connect::{request, tcp, udp, udp_connected, udp_connected_once, udp_once};
use crate::{deadline, error_name, is_destroyed, print_line};

/// Pause between two requests: short enough to notice a gap of a few milliseconds.
const PAUSE: Duration = Duration::from_millis(2);
/// A datagram without a response within this time is lost.
const LOST: Duration = Duration::from_millis(500);
/// Most errors that a report lists.
const ERRORS_MAX: usize = 20;

enum Client {
    Tcp(BufReader<TcpStream>),
    Connect(SocketAddr),
    Udp(UdpSocket, SocketAddr),
    UdpConnected(UdpSocket),
}

impl Client {
    fn open(protocol: &str, server: SocketAddr, limit: Duration) -> io::Result<Client> {
        Ok(match protocol {
            "tcp" => {
                let stream = tcp(server, 0, deadline())?;
                stream.set_read_timeout(Some(limit))?;
                Client::Tcp(BufReader::new(stream))
            }
            "connect" => Client::Connect(server),
            "udp" => Client::Udp(udp(0, LOST)?, server),
            "udp-connected" => Client::UdpConnected(udp_connected(server, 0, LOST)?),
            other => panic!("{other}"),
        })
    }

    fn request(&mut self) -> io::Result<Response> {
        match self {
            Client::Tcp(stream) => request(stream),
            Client::Connect(server) => request(&mut BufReader::new(tcp(*server, 0, deadline())?)),
            Client::Udp(socket, server) => udp_once(socket, *server, 0).map(|(r, _)| r),
            Client::UdpConnected(socket) => udp_connected_once(socket, 0).map(|(r, _)| r),
        }
    }
}

/// Repeats a request. `limit` is the time that a response on an open connection may take, and that of the
/// server named on standard input.
pub fn hold(protocol: &str, server: &str, limit: Duration) -> HoldReport {
    let server: SocketAddr = server.parse().unwrap();
    let mut report = HoldReport { responses: 0, longest_ms: 0, servers: vec![], errors: vec![] };
    let mut client = Client::open(protocol, server, limit)
        .unwrap_or_else(|e| panic!("{protocol} {server}: {e}"));
    let end = input();
    let mut end_after: Option<(String, Instant, u32)> = None;
    loop {
        if let Ok(server) = end.try_recv() {
            end_after = Some((server, Instant::now(), 0));
        }
        if let Some((server, since, requests)) = &mut end_after {
            // One more request: what changed before the end is part of the report.
            let is_enough = server.is_empty() || report.servers.contains(server);
            if *requests > 0 && (is_enough || since.elapsed() > limit) {
                return report;
            }
            *requests += 1;
        }
        let start = Instant::now();
        match client.request() {
            Ok(response) => {
                if !report.servers.contains(&response.server) {
                    report.servers.push(response.server);
                }
                report.responses += 1;
                if report.responses == 1 {
                    print_line("holding");
                }
            }
            // getpeername(2) of a socket that was destroyed after its response arrived. The error itself
            // comes with the next request.
            Err(e)
                if matches!(client, Client::UdpConnected(_))
                    && e.kind() == io::ErrorKind::NotConnected => {}
            Err(e) => {
                if report.errors.len() < ERRORS_MAX {
                    report.errors.push(error_name(&e));
                }
                match client {
                    Client::Tcp(_) => return report,
                    // The agent destroyed the socket. After any other error, a time-out above
                    // all, the client keeps it: a new one would hide that the agent did not.
                    Client::UdpConnected(_) if is_destroyed(&e) => {
                        if let Ok(another) = Client::open(protocol, server, limit) {
                            client = another;
                        }
                    }
                    _ => {}
                }
            }
        }
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        report.longest_ms = report.longest_ms.max(took);
        thread::sleep(PAUSE);
    }
}

/// Reads one line of standard input; an empty one when it ends.
fn input() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().read_line(&mut line);
        let _ = sender.send(line.trim_end().to_owned());
    });
    receiver
}
