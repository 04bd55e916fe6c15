//! The client: one operation after the other, for a given time.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::Mode;

/// Result of a run.
#[derive(Serialize)]
pub struct Report {
    mode: &'static str,
    target: SocketAddr,
    /// Round trips, connections, or bytes that the server received.
    operations: u64,
    seconds: f64,
    per_second: f64,
    /// Median duration of an operation in microseconds; absent for bulk transfers.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    /// 99th percentile in microseconds; absent for bulk transfers.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
}

/// Time that one target is measured before the next one is: short, so that what else the machine does affects
/// all of them alike.
const SLICE: Duration = Duration::from_millis(20);

/// One target, what was measured so far, and its connection, if the kind of load has one only.
struct Target {
    address: SocketAddr,
    stream: Option<TcpStream>,
    operations: u64,
    times: Vec<u64>,
    spent: Duration,
}

/// Runs one kind of load against each target for `duration`, in turns; the order of a turn is the reverse of that
/// of the one before. Returns a report of each target.
///
/// # Errors
/// When a connection cannot be established or breaks.
pub fn run(mode: Mode, targets: &[SocketAddr], duration: Duration) -> anyhow::Result<Vec<Report>> {
    let open = |&address| Target::open(mode, address);
    let mut targets = targets.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let mut is_reversed = false;
    while targets.iter().any(|target| target.spent < duration) {
        for at in 0..targets.len() {
            let at = if is_reversed { targets.len() - 1 - at } else { at };
            targets[at].measure(mode, SLICE.min(duration))?;
        }
        is_reversed = !is_reversed;
    }
    targets.into_iter().map(|target| target.report(mode)).collect()
}

impl Target {
    fn open(mode: Mode, address: SocketAddr) -> anyhow::Result<Target> {
        let mut stream = match mode {
            Mode::Rr | Mode::Stream => Some(connect(address, mode)?),
            Mode::Crr => None,
        };
        if let (Mode::Rr, Some(stream)) = (mode, &mut stream) {
            stream.read_exact(&mut [0]).context("first response of the server")?;
        }
        let times = Vec::with_capacity(if mode == Mode::Stream { 0 } else { 1 << 18 });
        Ok(Target { address, stream, operations: 0, times, spent: Duration::ZERO })
    }

    /// Repeats the operation for this time.
    fn measure(&mut self, mode: Mode, duration: Duration) -> anyhow::Result<()> {
        let buffer = if mode == Mode::Stream { vec![0; 256 * 1024] } else { Vec::new() };
        let start = Instant::now();
        let mut before = start;
        while before.duration_since(start) < duration {
            match &mut self.stream {
                Some(stream) if mode == Mode::Rr => round_trip(stream)?,
                Some(stream) => stream.write_all(&buffer)?,
                None => connect_once(self.address)?,
            }
            let now = Instant::now();
            if mode != Mode::Stream {
                self.times.push(now.duration_since(before).as_nanos() as u64);
            }
            before = now;
        }
        self.spent += before.duration_since(start);
        Ok(())
    }

    fn report(mut self, mode: Mode) -> anyhow::Result<Report> {
        self.operations = self.times.len() as u64;
        if let (Mode::Stream, Some(stream)) = (mode, &mut self.stream) {
            let start = Instant::now();
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let mut total = [0; 8];
            stream.read_exact(&mut total).context("byte count from the server")?;
            self.operations = u64::from_be_bytes(total);
            self.spent += start.elapsed();
        }
        self.times.sort_unstable();
        let at = |share: f64| {
            let index = ((self.times.len() as f64 - 1.0) * share) as usize;
            self.times.get(index).map(|&ns| ns as f64 / 1000.0)
        };
        let seconds = self.spent.as_secs_f64();
        Ok(Report {
            mode: mode.name(),
            target: self.address,
            operations: self.operations,
            seconds,
            per_second: self.operations as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
        })
    }
}

/// A new connection with one request and response.
fn connect_once(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = connect(address, Mode::Crr)?;
    stream.read_exact(&mut [0])?;
    // A reset leaves no socket in TIME_WAIT: a long run would use up the ports.
    close_with_reset(stream)
}

fn connect(target: SocketAddr, mode: Mode) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {target}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[mode.tag()])?;
    Ok(stream)
}

fn round_trip(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut byte = [b'r'];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(())
}

fn close_with_reset(stream: TcpStream) -> anyhow::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open, and the pointer and length describe `linger`.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    anyhow::ensure!(result == 0, "SO_LINGER: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_measured_in_turns_for_the_same_time() {
        let listeners = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let targets = [0, 1].map(|n: usize| listeners[n].local_addr().expect("an address"));
        for listener in listeners {
            std::thread::spawn(move || crate::server::accept(&listener));
        }
        for mode in [Mode::Rr, Mode::Crr, Mode::Stream] {
            let reports = run(mode, &targets, Duration::from_millis(50)).expect("both serve");
            assert_eq!(reports.iter().map(|r| r.target).collect::<Vec<_>>(), targets);
            assert!(
                reports.iter().all(|r| r.operations > 0 && r.seconds >= 0.05),
                "{}",
                mode.name()
            );
        }
    }
}
