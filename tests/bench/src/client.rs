//! The client: one operation after the other, for a given time.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::namespace::{self, Namespace};
use crate::{BLOCK, Mode};

/// Result of a run.
#[derive(Serialize)]
pub struct Report {
    mode: &'static str,
    target: SocketAddr,
    /// Round trips, connections, or bytes that the server has read.
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

/// A turn measures each of N targets once. In 2 N turns, each of them has every place of the order twice, and each of
/// its neighbours is as often before it as after it.
struct Turn {
    number: usize,
    order: Vec<usize>,
}

impl Turn {
    fn of(targets: usize) -> Turn {
        Turn { number: 0, order: (0..targets).collect() }
    }

    fn advance(&mut self) {
        self.number += 1;
        self.order.rotate_left(1);
        if self.number.is_multiple_of(self.order.len()) {
            self.order.reverse();
        }
    }
}

/// A server, and the pod from which it is measured, if that is another one than the client's own.
pub struct Path {
    server: SocketAddr,
    from: Option<Namespace>,
}

/// The path to each server: from the pod with the address at the same place of `from`, or from here if `from` is
/// empty.
///
/// # Errors
/// When `from` has another length, or no pod of this node has one of its addresses.
pub fn paths(servers: &[SocketAddr], from: &[IpAddr]) -> anyhow::Result<Vec<Path>> {
    ensure!(
        from.is_empty() || from.len() == servers.len(),
        "{} servers from {} pods",
        servers.len(),
        from.len()
    );
    let folder = std::path::Path::new(namespace::FOLDER);
    let path = |(n, &server): (usize, &SocketAddr)| {
        let from = from.get(n).map(|&address| Namespace::find(folder, address)).transpose()?;
        Ok(Path { server, from })
    };
    servers.iter().enumerate().map(path).collect()
}

/// One target, its connection, if the kind of load has one only, and what was measured so far.
struct Target {
    path: Path,
    stream: Option<TcpStream>,
    /// What is written at once: [`BLOCK`] bytes of a bulk transfer, else empty.
    block: Vec<u8>,
    /// Blocks that the server has acknowledged.
    blocks: u64,
    /// Durations of the other operations in nanoseconds.
    times: Vec<u64>,
    spent: Duration,
}

/// Runs one kind of load on each path for at least `duration`, in turns. Returns a report of each server.
///
/// # Errors
/// When a connection cannot be established or breaks.
pub fn run(mode: Mode, paths: Vec<Path>, duration: Duration) -> anyhow::Result<Vec<Report>> {
    let open = |path| Target::open(mode, path);
    let mut targets = paths.into_iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let mut turn = Turn::of(targets.len());
    while targets.iter().any(|target| target.spent < duration) {
        for &at in &turn.order {
            targets[at].measure(mode, SLICE.min(duration))?;
        }
        turn.advance();
    }
    Ok(targets.into_iter().map(|target| target.report(mode)).collect())
}

impl Path {
    /// Lets the next connections begin in the pod.
    fn enter(&self) -> anyhow::Result<()> {
        self.from.as_ref().map_or(Ok(()), Namespace::enter)
    }
}

impl Target {
    fn open(mode: Mode, path: Path) -> anyhow::Result<Target> {
        path.enter()?;
        let mut stream = match mode {
            Mode::Rr | Mode::Stream => Some(connect(path.server, mode)?),
            Mode::Crr => None,
        };
        if let (Mode::Rr, Some(stream)) = (mode, &mut stream) {
            stream.read_exact(&mut [0]).context("first response of the server")?;
        }
        let (block, times) = match mode {
            Mode::Stream => (vec![0; BLOCK], Vec::new()),
            Mode::Rr | Mode::Crr => (Vec::new(), Vec::with_capacity(1 << 18)),
        };
        Ok(Target { path, stream, block, blocks: 0, times, spent: Duration::ZERO })
    }

    /// Repeats the operation for this time. A bulk transfer ends when all blocks are acknowledged: what is under way
    /// would be sent during the measurement of the next target.
    fn measure(&mut self, mode: Mode, duration: Duration) -> anyhow::Result<()> {
        self.path.enter()?;
        let start = Instant::now();
        let mut before = start;
        let mut written = 0;
        while before.duration_since(start) < duration {
            match &mut self.stream {
                Some(stream) if mode == Mode::Rr => round_trip(stream)?,
                Some(stream) => {
                    stream.write_all(&self.block)?;
                    written += 1;
                }
                None => connect_once(self.path.server)?,
            }
            let now = Instant::now();
            if mode != Mode::Stream {
                self.times.push(now.duration_since(before).as_nanos() as u64);
            }
            before = now;
        }
        if let (Mode::Stream, Some(stream)) = (mode, &mut self.stream) {
            stream.read_exact(&mut vec![0; written]).context("acknowledgements of the server")?;
            self.blocks += written as u64;
        }
        self.spent += start.elapsed();
        Ok(())
    }

    fn report(mut self, mode: Mode) -> Report {
        let operations = match mode {
            Mode::Stream => self.blocks * BLOCK as u64,
            Mode::Rr | Mode::Crr => self.times.len() as u64,
        };
        self.times.sort_unstable();
        let at = |share: f64| {
            let index = ((self.times.len() as f64 - 1.0) * share) as usize;
            self.times.get(index).map(|&ns| ns as f64 / 1000.0)
        };
        let seconds = self.spent.as_secs_f64();
        Report {
            mode: mode.name(),
            target: self.path.server,
            operations,
            seconds,
            per_second: operations as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
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
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::thread;

    use super::*;
    use crate::server;

    /// Numbers of the servers that have accepted a connection, in that order.
    type Accepted = Arc<Mutex<Vec<usize>>>;

    /// Serves connections at an address, and records that server `n` has accepted them.
    fn serve(address: &str, n: usize, accepted: &Accepted) -> SocketAddr {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::clone(accepted);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.lock().unwrap_or_else(PoisonError::into_inner).push(n);
                thread::spawn(move || server::serve(stream));
            }
        });
        address
    }

    /// Servers at several ports.
    fn servers<const N: usize>() -> ([SocketAddr; N], Accepted) {
        let accepted = Accepted::default();
        (std::array::from_fn(|n| serve("127.0.0.1:0", n, &accepted)), accepted)
    }

    fn from_here(servers: &[SocketAddr]) -> Vec<Path> {
        paths(servers, &[]).expect("no pod is entered")
    }

    /// Runs a test with a server in each of several network namespaces, all at one address, and a path from each
    /// namespace to it. The thread of the test is in the last of the namespaces.
    fn with_pods<const N: usize>(test: fn(Vec<Path>, &Accepted)) {
        namespace::tests::in_thread(|| {
            let accepted = Accepted::default();
            let pod = |n: usize| {
                let from = Some(namespace::tests::create()?);
                Some(Path { server: serve("127.0.0.1:7000", n, &accepted), from })
            };
            match (0..N).map(pod).collect() {
                Some(pods) => test(pods, &accepted),
                None => namespace::tests::skip(),
            }
        });
    }

    #[test]
    fn each_target_is_measured_for_the_duration() {
        let (targets, _) = servers::<2>();
        for mode in [Mode::Rr, Mode::Crr, Mode::Stream] {
            let reports =
                run(mode, from_here(&targets), Duration::from_millis(50)).expect("both serve");
            assert_eq!(reports.iter().map(|r| r.target).collect::<Vec<_>>(), targets);
            assert!(
                reports.iter().all(|r| r.operations > 0 && r.seconds >= 0.05),
                "{}",
                mode.name()
            );
        }
    }

    #[test]
    fn targets_are_measured_in_turns_whose_order_rotates() {
        let (targets, accepted) = servers::<3>();
        run(Mode::Crr, from_here(&targets), 20 * SLICE).expect("all serve");
        expect_turns(&accepted);
    }

    #[track_caller]
    fn expect_turns(accepted: &Accepted) {
        let mut turns = accepted.lock().expect("no thread has panicked").clone();
        turns.dedup();
        // 0 1 2, 1 2 0, 2 0 1, and backwards 2 1 0; the first target of a turn can be the last of the one before.
        assert!(turns.starts_with(&[0, 1, 2, 1, 2, 0, 2, 0, 1, 2, 1, 0]), "{turns:?}");
    }

    #[test]
    fn turn_of_a_pod_begins_connections_in_that_pod_only() {
        with_pods::<3>(|pods, accepted| {
            let reports = run(Mode::Crr, pods, 20 * SLICE).expect("all serve");
            expect_turns(accepted);
            let accepted = accepted.lock().expect("no thread has panicked");
            for (n, report) in reports.iter().enumerate() {
                let count = accepted.iter().filter(|server| **server == n).count();
                assert_eq!(report.operations, count as u64, "pod {n}");
            }
        });
    }

    #[test]
    fn connection_of_many_requests_is_in_its_pod() {
        with_pods::<3>(|pods, accepted| {
            let reports = run(Mode::Rr, pods, 3 * SLICE).expect("all serve");
            assert!(reports.iter().all(|report| report.operations > 0));
            assert_eq!(*accepted.lock().expect("no thread has panicked"), [0, 1, 2]);
        });
    }

    #[test]
    fn every_server_has_a_pod_or_none_has() {
        let servers = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().expect("valid"));
        let error = paths(&servers, &["10.0.0.1".parse().expect("valid")]).err();
        assert_eq!(error.expect("one is missing").to_string(), "2 servers from 1 pods");
    }

    #[test]
    fn turn_of_a_bulk_transfer_ends_with_its_last_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        // A server that counts what it has read, and is slow.
        let read = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&read);
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.read_exact(&mut [0]).expect("the kind of load");
            let mut block = vec![0; BLOCK];
            while stream.read_exact(&mut block).is_ok() {
                *counted.lock().expect("no thread has panicked") += 1;
                thread::sleep(Duration::from_millis(1));
                stream.write_all(&[0]).expect("a client that reads");
            }
        });
        let mut target =
            Target::open(Mode::Stream, Path { server: address, from: None }).expect("it serves");
        for _ in 0..5 {
            target.measure(Mode::Stream, Duration::from_millis(5)).expect("it serves");
            assert_eq!(target.blocks, *read.lock().expect("no thread has panicked"));
        }
    }
}
