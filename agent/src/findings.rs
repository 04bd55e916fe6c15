//! Problems of single API objects: a log line and an Event on the object for each.
//!
//! ```text
//! state --Finding--> Findings (bounded queue) --> log, source::object_events (Event) --> API server
//! ```
//! The event loop never waits: what does not fit into the queue is dropped, which the log shows. The
//! same finding is reported again after [`REPEAT`] at the earliest, and beyond a [`BURST`] one is
//! reported per [`INTERVAL`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sluice_core::ObjectName;
use sluice_core::model::Kind;
use sluice_core::policy::FindingReason;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Findings that wait.
const QUEUE: usize = 1024;
/// Time after which an equal finding is reported again: the API server keeps Events for an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// The problem.
    pub reason: Reason,
    /// The problem and its consequence, in one line.
    pub message: String,
}

impl Finding {
    /// A problem of a Service.
    pub fn service(object: &ObjectName, reason: Reason, message: String) -> Finding {
        Finding { kind: Kind::Service, object: object.clone(), reason, message }
    }
}

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

/// Decides which findings are reported when.
#[derive(Debug)]
struct Limiter {
    known: BTreeMap<(Kind, ObjectName, Reason), (String, Instant)>,
    /// When the next report after the burst is due.
    next: Instant,
}

impl Limiter {
    fn new(now: Instant) -> Limiter {
        Limiter { known: BTreeMap::new(), next: now - INTERVAL * BURST }
    }

    /// Whether a finding is new, differs from the last one, or is to be repeated.
    fn is_due(&mut self, finding: &Finding, now: Instant) -> bool {
        let key = (finding.kind, finding.object.clone(), finding.reason);
        let known = self.known.get(&key);
        if known.is_some_and(|(text, at)| *text == finding.message && now < *at + REPEAT) {
            return false;
        }
        if self.known.len() >= KNOWN {
            self.known.retain(|_, (_, at)| now < *at + REPEAT);
        }
        if self.known.len() < KNOWN {
            self.known.insert(key, (finding.message.clone(), now));
        }
        true
    }

    /// Takes the turn of one report. Returns when it is.
    fn turn(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(INTERVAL * BURST).unwrap_or(now);
        self.next = self.next.max(earliest) + INTERVAL;
        self.next.max(now)
    }
}

/// Logs findings and gives each to `write`, one after the other.
pub async fn report<F: Future<Output = ()>>(
    mut findings: mpsc::Receiver<Finding>,
    mut write: impl FnMut(Finding) -> F,
) {
    let mut limiter = Limiter::new(Instant::now());
    while let Some(finding) = findings.recv().await {
        if !limiter.is_due(&finding, Instant::now()) {
            continue;
        }
        sleep_until(limiter.turn(Instant::now())).await;
        let Finding { kind, object, reason, message } = &finding;
        tracing::warn!(?kind, %object, %reason, "{message}");
        write(finding).await;
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
        let (findings, receiver) = queue();
        findings.send(sent);
        let written = RefCell::new(Vec::new());
        let report = report(receiver, |finding| {
            written.borrow_mut().push(format!("{} {}", finding.object, finding.message));
            std::future::ready(())
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
