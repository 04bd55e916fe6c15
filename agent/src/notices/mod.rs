//! Datagrams of the CNI binary -> events and metrics.
//!
//! ```text
//! /run/sluice/cni.sock --datagram--> metrics of the call; the leases changed --> Event::Leases
//! once a second:  the folder of the leases changed without one               --> Event::Leases
//! ```
//! Nothing depends on a datagram: the CNI binary sends it without waiting, and the folder is compared by
//! one system call. After a burst the agent pauses for 5 ms: the kernel's queue is short and senders drop
//! what does not fit, so a flood costs no more than a burst.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use sluice_pod::lease::{Stamp, Store};
use sluice_pod::{NOTICE_MAX, Notice, notice_socket};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::event::Event;

/// Mode of the socket: sending requires the write permission.
const MODE: u32 = 0o600;
/// Pause after the datagrams that waited. An ADD takes longer; the kernel queues ten datagrams.
const PAUSE: Duration = Duration::from_millis(5);
/// Interval at which the folder of the leases is compared.
const COMPARISON: Duration = Duration::from_secs(1);
/// Most datagrams read between two pauses.
const BURST: usize = 64;
/// Codes that are labels; all others, which no version of the CNI binary has, are one.
const CODES: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 11, 50, 51, 100, 101, 102];

/// Metrics of CNI calls; clones share their values.
#[derive(Clone, Debug)]
pub struct CniStats {
    /// Duration by verb.
    pub duration: Family<VerbLabel, Histogram, fn() -> Histogram>,
    /// Failed calls.
    pub errors: Family<ErrorLabels, Counter>,
    /// Datagrams that were ignored.
    pub ignored: Family<ReasonLabel, Counter>,
}

/// The verb of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabel {
    verb: &'static str,
}

/// Verb and error code of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    verb: &'static str,
    code: u32,
}

/// Why a datagram was ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Notice(Notice),
    Malformed,
    OtherUser,
}

// === impl CniStats ===

impl Default for CniStats {
    fn default() -> CniStats {
        // 1 ms to 4 s.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 13));
        CniStats {
            duration: Family::new_with_constructor(histogram),
            errors: Family::default(),
            ignored: Family::default(),
        }
    }
}

impl CniStats {
    /// Counts a datagram; whether the leases may have changed.
    fn count(&self, received: &Received) -> bool {
        let ignored = |reason| self.ignored.get_or_create(&ReasonLabel { reason }).inc();
        let notice = match received {
            Received::Malformed => {
                ignored("malformed");
                return false;
            }
            Received::OtherUser => {
                ignored("other_user");
                return false;
            }
            Received::Notice(notice) => notice,
        };
        let verb = notice.verb.name();
        let seconds = Duration::from_micros(notice.microseconds).as_secs_f64();
        self.duration.get_or_create(&VerbLabel { verb }).observe(seconds);
        if notice.code != 0 {
            let code = if CODES.contains(&notice.code) { notice.code } else { u32::MAX };
            self.errors.get_or_create(&ErrorLabels { verb, code }).inc();
        }
        notice.verb.changes_leases()
    }
}

/// Opens the socket and starts to receive. Ends when the receiver of the events is closed.
///
/// # Errors
/// The socket cannot be created.
pub fn spawn(store: Store, stats: CniStats, events: mpsc::Sender<Event>) -> io::Result<()> {
    let socket = open(&notice_socket(store.dir()))?;
    // Before anything reads the leases.
    let seen = store.stamp();
    tokio::spawn(receive(socket, store, seen, stats, events));
    Ok(())
}

fn open(path: &Path) -> io::Result<UnixDatagram> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = StdDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    UnixDatagram::from_std(socket)
}

async fn receive(
    socket: UnixDatagram,
    store: Store,
    mut seen: Option<Stamp>,
    stats: CniStats,
    events: mpsc::Sender<Event>,
) {
    let own = nix::unistd::geteuid().as_raw();
    let mut comparison = interval(COMPARISON);
    comparison.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            received = burst(&socket, own, &stats) => match received {
                Ok(changed) => changed,
                Err(error) => {
                    tracing::warn!(%error, "could not read the notices of the CNI binary");
                    sleep(COMPARISON).await;
                    false
                }
            },
            _ = comparison.tick() => store.stamp() != seen,
        };
        if changed {
            seen = store.stamp();
            if events.send(Event::Leases).await.is_err() {
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Waits for datagrams of the user `own` and reads those that wait; whether the leases may have
/// changed.
async fn burst(socket: &UnixDatagram, own: u32, stats: &CniStats) -> io::Result<bool> {
    socket.readable().await?;
    let mut changed = false;
    for _ in 0..BURST {
        match socket.try_io(Interest::READABLE, || receive_one(socket, own)) {
            Ok(received) => changed |= stats.count(&received),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(changed)
}

fn receive_one(socket: &UnixDatagram, own: u32) -> io::Result<Received> {
    let mut buffer = [0; NOTICE_MAX];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = cmsg_space!(UnixCredentials);
    let fd = socket.as_fd().as_raw_fd();
    let message =
        recvmsg::<UnixAddr>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let is_own = |message: &ControlMessageOwned| matches!(message, ControlMessageOwned::ScmCredentials(sender) if sender.uid() == own);
    let (length, truncated) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
    if !message.cmsgs()?.any(|message| is_own(&message)) {
        return Ok(Received::OtherUser);
    }
    let notice = buffer.get(..length).filter(|_| !truncated).map(Notice::parse);
    Ok(match notice {
        Some(Ok(notice)) => Received::Notice(notice),
        _ => Received::Malformed,
    })
}

#[cfg(test)]
mod tests;
