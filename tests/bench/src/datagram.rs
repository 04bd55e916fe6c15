//! Datagrams that show whether packets pass: the first that is answered, and when that changes.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::Serialize;

use crate::clock::{now, wait_readable};

/// Interval of datagrams.
const INTERVAL: Duration = Duration::from_millis(1);
/// Interval of a client whose first datagrams were not answered, after [`SHORT_INTERVAL_PERIOD`]:
/// hundreds of clients that wait at the same time must not keep the machine busy.
const LONG_INTERVAL: Duration = Duration::from_millis(10);
const SHORT_INTERVAL_PERIOD: Duration = Duration::from_millis(100);
/// Datagrams in a row that all pass, or do not, before that counts as a change.
const SUSTAINED: usize = 5;
/// Time for the answers of the last datagrams.
const LAST: Duration = Duration::from_millis(100);

/// Times of a client from its first instruction to its first answers.
#[derive(Serialize)]
pub struct First {
    /// The clock when the program started, in nanoseconds.
    started_ns: u64,
    /// The clock when the first answer of each target arrived, in the order of the targets; absent if none
    /// did.
    answered_ns: Vec<Option<u64>>,
    /// Datagrams to each target, including the answered one.
    sent: Vec<u64>,
}

/// Sends datagrams to all targets at the same time, to each until it answers.
///
/// # Errors
/// When a socket cannot be created.
pub fn first(started_ns: u64, targets: &[SocketAddr], deadline: Duration) -> anyhow::Result<First> {
    let until = started_ns + nanoseconds(deadline);
    let clients: Vec<_> = targets
        .iter()
        .map(|&target| thread::spawn(move || first_of(started_ns, target, until)))
        .collect();
    let mut report = First { started_ns, answered_ns: Vec::new(), sent: Vec::new() };
    for client in clients {
        let (answered, sent) =
            client.join().map_err(|_| anyhow::anyhow!("a client's thread panicked"))??;
        report.answered_ns.push(answered);
        report.sent.push(sent);
    }
    Ok(report)
}

fn first_of(started_ns: u64, target: SocketAddr, until: u64) -> anyhow::Result<(Option<u64>, u64)> {
    let socket = socket(target)?;
    let mut sent = 0;
    let mut next = now();
    while next < until {
        // Fails while the pod has no route; the datagram counts as one that was not answered.
        let _ = socket.send(&u64::to_be_bytes(sent));
        sent += 1;
        let is_first_period = next.saturating_sub(started_ns) < nanoseconds(SHORT_INTERVAL_PERIOD);
        next += nanoseconds(if is_first_period { INTERVAL } else { LONG_INTERVAL });
        let mut answered = None;
        while answered.is_none() {
            let left = next.saturating_sub(now());
            if left == 0 {
                break;
            }
            wait_readable(&socket, Duration::from_nanos(left));
            receive(&socket, |_| answered = Some(now()));
        }
        if answered.is_some() {
            return Ok((answered, sent));
        }
        next = next.max(now());
    }
    Ok((None, sent))
}

/// When datagrams began to pass, or ceased to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The clock when the first datagram with the new outcome was sent, in nanoseconds.
    at_ns: u64,
    /// Whether it was answered.
    answered: bool,
}

/// Outcomes of datagrams at a fixed rate.
#[derive(Serialize)]
pub struct Probe {
    /// Number of datagrams.
    sent: usize,
    /// The initial outcome and its changes.
    changes: Vec<Change>,
}

/// Sends a datagram every millisecond, whether or not the one before was answered.
///
/// # Errors
/// When the socket cannot be created.
pub fn probe(target: SocketAddr, duration: Duration) -> anyhow::Result<Probe> {
    let socket = socket(target)?;
    let start = now();
    let mut sent: Vec<u64> = Vec::new();
    let mut answered: Vec<bool> = Vec::new();
    let count = (duration.as_nanos() / INTERVAL.as_nanos()) as u64;
    for number in 0..count {
        sent.push(now());
        answered.push(false);
        let _ = socket.send(&number.to_be_bytes());
        collect(&socket, start + (number + 1) * nanoseconds(INTERVAL), &mut answered);
    }
    collect(&socket, now() + nanoseconds(LAST), &mut answered);
    Ok(Probe { sent: sent.len(), changes: changes(&sent, &answered) })
}

/// Marks the datagrams whose answers arrive until `until`.
fn collect(socket: &UdpSocket, until: u64, answered: &mut [bool]) {
    loop {
        receive(socket, |number| {
            if let Some(entry) = usize::try_from(number).ok().and_then(|n| answered.get_mut(n)) {
                *entry = true;
            }
        });
        let left = until.saturating_sub(now());
        if left == 0 {
            return;
        }
        wait_readable(socket, Duration::from_nanos(left));
    }
}

/// The first outcome, and each later one that at least [`SUSTAINED`] datagrams in a row have. A single lost
/// datagram does not count.
fn changes(sent: &[u64], answered: &[bool]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (run, at_ns) in answered.windows(SUSTAINED).zip(sent) {
        let Some(&first) = run.first() else { continue };
        let differs = changes.last().is_none_or(|last| last.answered != first);
        if differs && run.iter().all(|outcome| *outcome == first) {
            changes.push(Change { at_ns: *at_ns, answered: first });
        }
    }
    changes
}

/// Longest time before a datagram of [`send`].
const LONGEST_PAUSE: Duration = Duration::from_millis(1200);

/// A datagram that was sent.
#[derive(Serialize)]
pub struct Sent {
    /// CLOCK_REALTIME before it was sent, in nanoseconds since 1970.
    unix_ns: u64,
    /// Its source port.
    port: u16,
}

/// Sends datagrams, each from another port, with pauses of different lengths.
///
/// # Errors
/// When a socket cannot be created, or a datagram cannot be sent.
pub fn send(target: SocketAddr, count: u32) -> anyhow::Result<Vec<Sent>> {
    // They stay open: the port of a closed one could be assigned again.
    let mut sockets = Vec::new();
    let mut all = Vec::new();
    for number in 0..count {
        thread::sleep(pause(number));
        let socket = socket(target)?;
        let port = socket.local_addr()?.port();
        let unix_ns = nanoseconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?);
        socket.send(&number.to_be_bytes()).with_context(|| format!("cannot send to {target}"))?;
        all.push(Sent { unix_ns, port });
        sockets.push(socket);
    }
    Ok(all)
}

/// The time before a datagram: multiples of the golden ratio without their integer parts are spread evenly, and so
/// are the phases of a receiver that polls.
fn pause(number: u32) -> Duration {
    LONGEST_PAUSE.mul_f64((f64::from(number) * std::f64::consts::GOLDEN_RATIO).fract())
}

/// Passes on the numbers of all answers that have arrived.
fn receive(socket: &UdpSocket, mut number: impl FnMut(u64)) {
    let mut bytes = [0; 8];
    loop {
        match socket.recv(&mut bytes) {
            Ok(8) => number(u64::from_be_bytes(bytes)),
            // A datagram of something else, or an ICMP error about one of ours.
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

fn socket(target: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind a UDP port")?;
    socket.connect(target).with_context(|| format!("cannot connect to {target}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Answers every datagram with its own contents.
///
/// # Errors
/// When the port cannot be bound.
pub fn echo(port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot bind UDP port {port}"))?;
    let mut bytes = [0; 2048];
    loop {
        // Errors are ICMP messages about earlier answers.
        if let Ok((length, client)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(bytes.get(..length).unwrap_or_default(), client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str) -> Vec<Change> {
        let answered: Vec<bool> = text.chars().map(|c| c == '+').collect();
        let sent: Vec<u64> = (0..).take(answered.len()).collect();
        changes(&sent, &answered)
    }

    #[test]
    fn a_change_is_the_first_of_five_datagrams_with_another_outcome() {
        let change = |at_ns, answered| Change { at_ns, answered };
        let expected = [change(0, true), change(6, false), change(12, true)];
        assert_eq!(outcomes("++++++------++++++"), expected);
        // A datagram that was lost, and one that passed late.
        assert_eq!(outcomes("+++++-+++++++----"), [change(0, true)]);
        assert_eq!(outcomes("--+--------+++++"), [change(3, false), change(11, true)]);
        assert_eq!(outcomes("+++"), []);
    }

    #[test]
    fn datagrams_are_sent_from_other_ports_at_the_times_that_are_reported() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
        receiver.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let sent = send(receiver.local_addr().expect("bound"), 3).expect("sent");
        let mut last = nanoseconds(before);
        for (number, sent) in (0..).zip(&sent) {
            let (_, from) = receiver.recv_from(&mut [0; 4]).expect("a datagram");
            assert_eq!(from.port(), sent.port);
            let least = last + nanoseconds(pause(number));
            assert!(sent.unix_ns >= least, "{number}: {} before {least}", sent.unix_ns);
            last = sent.unix_ns;
        }
        let ports: std::collections::BTreeSet<u16> = sent.iter().map(|sent| sent.port).collect();
        assert_eq!(ports.len(), 3);
    }

    /// `sluice drops --follow` asks every 500 ms.
    #[test]
    fn pauses_are_up_to_the_longest_and_have_every_phase_of_a_receiver() {
        let (mut phases, mut at) = ([0; 10], Duration::ZERO);
        for number in 0..50 {
            at += pause(number);
            phases[(at.as_millis() % 500 / 50) as usize] += 1;
        }
        assert!(phases.iter().all(|count| *count > 0), "{phases:?}");
        let longest = (0..50).map(pause).max().expect("50");
        assert!((0.9..=1.0).contains(&longest.div_duration_f64(LONGEST_PAUSE)), "{longest:?}");
    }

    #[test]
    fn datagrams_to_a_server_are_answered_and_counted() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let target = server.local_addr().expect("bound");
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while let Ok((length, client)) = server.recv_from(&mut bytes) {
                let _ = server.send_to(&bytes[..length], client);
            }
        });
        let started = now();
        let report = first(started, &[target], Duration::from_secs(30)).expect("a socket");
        assert!(report.answered_ns[0].expect("an answer") >= started);
        let report = probe(target, Duration::from_millis(50)).expect("a socket");
        assert_eq!(report.sent, 50);
        assert!(report.changes.first().is_some_and(|change| change.answered));
    }
}
