//! A client with a new socket for each request, at a fixed rate.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::peer::RateReport;

/// How long a socket waits for its response. The sockets of this time are open at once.
const WAIT: Duration = Duration::from_millis(500);

pub fn resolve(server: &str, rate: u32, seconds: u32) -> RateReport {
    let start = Instant::now();
    let mut open: VecDeque<(Instant, UdpSocket)> = VecDeque::new();
    let mut report = RateReport { requests: 0, lost: 0, seconds: 0.0 };
    for n in 0..rate * seconds {
        let due = start + Duration::from_secs(1) * n / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        while open.front().is_some_and(|(sent, _)| sent.elapsed() > WAIT) {
            report.lost += lost(open.pop_front());
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(server).unwrap();
        // An error counts as a loss: the socket has no response.
        let _ = socket.send(b"query");
        open.push_back((Instant::now(), socket));
        report.requests += 1;
    }
    report.seconds = start.elapsed().as_secs_f64();
    thread::sleep(WAIT);
    report.lost += open.into_iter().map(|entry| lost(Some(entry))).sum::<u64>();
    report
}

fn lost(entry: Option<(Instant, UdpSocket)>) -> u64 {
    let mut response = [0; 512];
    entry.map_or(0, |(_, socket)| u64::from(socket.recv(&mut response).is_err()))
}
