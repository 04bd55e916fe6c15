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

/// Runs one kind of load against `target` for `duration`.
///
/// # Errors
/// When a connection cannot be established or breaks.
pub fn run(mode: Mode, target: SocketAddr, duration: Duration) -> anyhow::Result<Report> {
    match mode {
        Mode::Rr => {
            let mut stream = connect(target, mode)?;
            let mut byte = [0];
            stream.read_exact(&mut byte).context("first response of the server")?;
            timed("rr", duration, || round_trip(&mut stream))
        }
        Mode::Crr => timed("crr", duration, || {
            let mut stream = connect(target, mode)?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            // A reset leaves no socket in TIME_WAIT: a long run would use up the ports.
            close_with_reset(stream)
        }),
        Mode::Stream => bulk(target, duration),
    }
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

fn timed(
    mode: &'static str,
    duration: Duration,
    mut operation: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let mut times = Vec::with_capacity(1 << 18);
    let start = Instant::now();
    let mut before = start;
    while before.duration_since(start) < duration {
        operation()?;
        let now = Instant::now();
        times.push(now.duration_since(before).as_nanos() as u64);
        before = now;
    }
    let seconds = before.duration_since(start).as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 - 1.0) * share) as usize;
        times.get(index).map(|&ns| ns as f64 / 1000.0)
    };
    Ok(Report {
        mode,
        operations: times.len() as u64,
        seconds,
        per_second: times.len() as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
    })
}

fn bulk(target: SocketAddr, duration: Duration) -> anyhow::Result<Report> {
    let mut stream = connect(target, Mode::Stream)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let buffer = vec![0; 256 * 1024];
    let start = Instant::now();
    while start.elapsed() < duration {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).context("byte count from the server")?;
    let seconds = start.elapsed().as_secs_f64();
    let operations = u64::from_be_bytes(total);
    let per_second = operations as f64 / seconds;
    Ok(Report { mode: "stream", operations, seconds, per_second, p50_us: None, p99_us: None })
}
