//! Problems of single API objects: a log line and an Event on the object for each.
//!
//! ```text
//! state --Finding--> Findings (bounded queue) --> log, source::object_events (Event) --> API server
//! ```
//! The event loop never waits: what does not fit into the queue is dropped, which the log shows. A finding that
//! is sent again is reported again after [`REPEAT`], or after [`RETRY`] if its Event could not be written. Beyond
//! a [`BURST`] one is reported per [`INTERVAL`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sluice_core::ObjectName;
use sluice_core::model::{Kind, Uid};
use sluice_core::policy::FindingReason;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Findings that wait.
const QUEUE: usize = 1024;
/// Time after which an equal finding is reported again: the API server keeps Events for an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);
/// Time after which a finding is reported again whose Event could not be written.
const RETRY: Duration = Duration::from_secs(60);
/// Time between two reports, beyond the first [`BURST`].
const INTERVAL: Duration = Duration::from_secs(1);
/// Reports without a pause.
const BURST: u32 = 20;
/// Findings that are remembered, to not repeat them.
const KNOWN: usize = 4096;

/// The problem, in the form of an Event's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Another Service has the address and port.
    AddressInUse,
    /// An external address of a Service is in a pod range: its packets go to the pod.
    AddressInPodRange,
    /// A map is full.
    NotEnoughCapacity,
    /// The healthCheckNodePort cannot be opened, with kube-proxy's reason.
    FailedToStartServiceHealthcheck,
    /// A NodePort has the number and protocol of a Pod's hostPort, which it precedes.
    HostPortHidden,
    /// An endpoint has an address that cannot be routed to.
    InvalidEndpointAddress,
    /// A node has no port for source translation.
    NoSnatPort,
    /// A problem of a NetworkPolicy or ClusterNetworkPolicy.
    Policy(FindingReason),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Policy(reason) => f.write_str(reason.name()),
            reason => fmt::Debug::fmt(reason, f),
        }
    }
}

/// A problem of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// Its UID, if it is known: an object that was created again is another one.
    pub uid: Option<Uid>,
    /// The problem.
    pub reason: Reason,
    /// The problem and its consequence, in one line.
    pub message: String,
}

impl Finding {
    /// A problem of a Service.
    pub fn service(object: &ObjectName, reason: Reason, message: String) -> Finding {
        Finding::without_uid(Kind::Service, object.clone(), reason, message)
    }

    /// A problem of an object whose UID is not known.
    pub fn without_uid(kind: Kind, object: ObjectName, reason: Reason, message: String) -> Finding {
        Finding { kind, object, uid: None, reason, message }
    }
}

/// The Event of a finding could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWritten;

/// Accepts findings without waiting.
#[derive(Clone, Debug)]
pub struct Findings(mpsc::Sender<Finding>);

impl Findings {
    /// Sends findings; those that do not fit into the queue are dropped.
    pub fn send(&self, findings: Vec<Finding>) {
        let mut dropped = 0usize;
        for finding in findings {
            dropped += usize::from(self.0.try_send(finding).is_err());
        }
        if dropped > 0 {
            tracing::debug!(dropped, "findings dropped, too many wait");
        }
    }
}

/// The queue, to be read by [`report`].
pub fn queue() -> (Findings, mpsc::Receiver<Finding>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Findings(sender), receiver)
}

/// What distinguishes findings, besides the text.
type Key = (Kind, ObjectName, Option<Uid>, Reason);

/// The last report of a finding.
#[derive(Debug)]
struct Known {
    message: String,
    /// When the same message is reported again.
    repeat: Instant,
}

/// Decides which findings are reported when.
#[derive(Debug)]
struct Limiter {
    known: BTreeMap<Key, Known>,
    /// When the next report after the burst is due.
    next: Instant,
}

impl Limiter {
    fn new(now: Instant) -> Limiter {
        Limiter { known: BTreeMap::new(), next: now - INTERVAL * BURST }
    }

    /// Whether a finding is new, differs from the last one, or is to be repeated.
    fn is_due(&mut self, finding: &Finding, now: Instant) -> bool {
        let key = key(finding);
        let known = self.known.get(&key);
        if known.is_some_and(|known| known.message == finding.message && now < known.repeat) {
            return false;
        }
        if self.known.len() >= KNOWN {
            self.known.retain(|_, known| now < known.repeat);
        }
        if self.known.len() < KNOWN {
            let message = finding.message.clone();
            self.known.insert(key, Known { message, repeat: now + REPEAT });
        }
        true
    }

    /// The Event of a finding could not be written.
    fn failed(&mut self, finding: &Finding, now: Instant) {
        if let Some(known) = self.known.get_mut(&key(finding)) {
            known.repeat = now + RETRY;
        }
    }

    /// Takes the turn of one report. Returns when it is.
    fn turn(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(INTERVAL * BURST).unwrap_or(now);
        self.next = self.next.max(earliest) + INTERVAL;
        self.next.max(now)
    }
}

fn key(finding: &Finding) -> Key {
    (finding.kind, finding.object.clone(), finding.uid, finding.reason)
}

/// Logs findings and gives each to `write`, one after the other.
pub async fn report<F: Future<Output = Result<(), NotWritten>>>(
    findings: &mut mpsc::Receiver<Finding>,
    mut write: impl FnMut(Finding) -> F,
) {
    let mut limiter = Limiter::new(Instant::now());
    while let Some(finding) = findings.recv().await {
        if !limiter.is_due(&finding, Instant::now()) {
            continue;
        }
        sleep_until(limiter.turn(Instant::now())).await;
        let Finding { kind, object, reason, message, .. } = &finding;
        tracing::warn!(?kind, %object, %reason, "{message}");
        if write(finding.clone()).await == Err(NotWritten) {
            limiter.failed(&finding, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn finding(n: usize, message: &str) -> Finding {
        let object = ObjectName::new("shop", format!("s{n}"));
        Finding::service(&object, Reason::AddressInUse, message.to_owned())
    }

    /// Sends findings and returns the objects of those that are reported within a time.
    async fn reported(sent: Vec<Finding>, within: Duration) -> Vec<String> {
        let (findings, mut receiver) = queue();
        findings.send(sent);
        let written = RefCell::new(Vec::new());
        let report = report(&mut receiver, |finding| {
            written.borrow_mut().push(format!("{} {}", finding.object, finding.message));
            std::future::ready(Ok(()))
        });
        let _elapsed = tokio::time::timeout(within, report).await;
        written.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn equal_findings_are_reported_once() {
        let sent = vec![finding(1, "a"), finding(1, "a"), finding(2, "a"), finding(1, "b")];
        assert_eq!(
            reported(sent, Duration::from_secs(1)).await,
            ["shop/s1 a", "shop/s2 a", "shop/s1 b"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn object_that_is_created_again_is_reported_again() {
        let of = |uid: &str| Finding { uid: Uid::from_api(uid), ..finding(1, "a") };
        let (first, second) = (of(&"1".repeat(32)), of(&"2".repeat(32)));
        let sent = vec![first.clone(), first, second.clone(), second];
        assert_eq!(reported(sent, Duration::from_secs(1)).await, ["shop/s1 a", "shop/s1 a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn finding_whose_event_could_not_be_written_is_reported_again_after_a_minute() {
        let mut limiter = Limiter::new(Instant::now());
        let start = Instant::now();
        assert!(limiter.is_due(&finding(1, "a"), start));
        limiter.failed(&finding(1, "a"), start);
        assert!(!limiter.is_due(&finding(1, "a"), start + RETRY - Duration::from_secs(1)));
        assert!(limiter.is_due(&finding(1, "a"), start + RETRY));
        assert!(!limiter.is_due(&finding(1, "a"), start + RETRY * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn findings_beyond_a_burst_are_reported_one_per_second_and_never_block() {
        // More than the queue holds.
        let sent = || (0..2 * QUEUE).map(|n| finding(n, "a")).collect();
        assert_eq!(reported(sent(), Duration::from_millis(10)).await.len(), BURST as usize);
        assert_eq!(
            reported(sent(), Duration::from_millis(10_010)).await.len(),
            BURST as usize + 10
        );
    }

    #[tokio::test(start_paused = true)]
    async fn equal_finding_is_repeated_after_half_an_hour() {
        let mut limiter = Limiter::new(Instant::now());
        let start = Instant::now();
        assert!(limiter.is_due(&finding(1, "a"), start));
        assert!(!limiter.is_due(&finding(1, "a"), start + REPEAT - Duration::from_secs(1)));
        assert!(limiter.is_due(&finding(1, "a"), start + REPEAT));
        // The memory is bounded.
        for n in 0..2 * KNOWN {
            assert!(limiter.is_due(&finding(n, "c"), start + REPEAT));
        }
        assert_eq!(limiter.known.len(), KNOWN);
    }
}
