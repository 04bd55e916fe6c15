//! The loop: drain events, apply them, run the reconcilers that are due, sleep until the next
//! retry.
//!
//! ```text
//! events --apply--> State --compile--> Reconcilers::run --ops--> Kernel
//!    ^                                       |
//!    +--- sleep until an event, a retry, the next poll or resync
//! ```
//! Pending events are applied together, so that a burst costs one pass. Time comes from tokio:
//! tests pause and advance it.

use std::cell::RefCell;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::event::Event;
use crate::findings::Findings;
use crate::kernel::Kernel;
use crate::reconcile::Reconcilers;
use crate::state::{Cause, State};
use crate::view::View;
use crate::watches::Watches;

/// Interval of [`Event::Resync`].
pub const RESYNC: Duration = Duration::from_secs(30);

/// Interval of [`Event::Poll`]: what it finds is repaired within a second.
const POLL: Duration = Duration::from_millis(500);

/// Most events applied in one pass.
const BATCH: usize = 4096;

/// Longest time in which reasons of one batch of drops are looked for. Batches are 100 ms apart.
const EXPLAINING: Duration = Duration::from_millis(5);

/// The loop wakes up at least this often, to show that it is not stuck.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Receives the state after each pass.
pub trait Observer {
    /// Called at least every [`HEARTBEAT`], and before and after each pass.
    fn alive(&mut self) {}

    /// Called with the causes of changes that are in the kernel now.
    fn programmed(&mut self, _causes: &[Cause]) {}

    /// Called with the state and the duration of the pass.
    fn observe(&mut self, state: &State, duration: Duration);
}

/// The owner of all state.
pub struct EventLoop<K> {
    /// The state.
    pub state: State,
    /// The node.
    pub kernel: K,
    reconcilers: Reconcilers,
    observer: Box<dyn Observer>,
    watches: Watches,
    findings: Option<Findings>,
    /// Events of dropped packets that were not examined.
    lost: Counter,
    next_resync: Instant,
    next_poll: Instant,
    started: bool,
    /// For the time that reasons of drops take.
    clock: fn() -> Instant,
}

impl<K: Kernel> EventLoop<K> {
    /// A loop that has not run yet. Its first pass does not wait for an event: programs
    /// and rows of running pods are updated before the first object arrives. On a node without maps, the first
    /// lists have been applied before.
    pub fn new(
        state: State,
        kernel: K,
        reconcilers: Reconcilers,
        observer: Box<dyn Observer>,
    ) -> EventLoop<K> {
        EventLoop {
            state,
            kernel,
            reconcilers,
            observer,
            watches: Watches::default(),
            findings: None,
            lost: Counter::default(),
            next_resync: Instant::now() + RESYNC,
            next_poll: Instant::now() + POLL,
            started: false,
            clock: Instant::now,
        }
    }

    /// Measures the time that reasons of drops take by another clock.
    #[cfg(test)]
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.clock = clock;
    }

    /// Shows the state of these watches in the status.
    pub fn with_watches(self, watches: Watches) -> EventLoop<K> {
        EventLoop { watches, ..self }
    }

    /// Reports problems of single objects to this queue.
    pub fn with_findings(self, findings: Findings) -> EventLoop<K> {
        EventLoop { findings: Some(findings), ..self }
    }

    /// Shows this number of events that were not examined in the status.
    pub fn with_lost_events(self, lost: Counter) -> EventLoop<K> {
        EventLoop { lost, ..self }
    }

    /// Runs until [`Event::Stop`] or until every sender is dropped. Can be cancelled and called
    /// again.
    pub async fn run(&mut self, events: &mut mpsc::Receiver<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            self.pass();
        }
        loop {
            self.observer.alive();
            let wake_at = self.wake_at();
            let heartbeat = Instant::now() + HEARTBEAT;
            match timeout_at(wake_at.min(heartbeat), events.recv()).await {
                Ok(None) => return,
                Ok(Some(event)) => self.apply_all(event, events),
                Err(_elapsed) if Instant::now() < wake_at => continue,
                Err(_elapsed) => {}
            }
            self.observer.alive();
            if self.state.stopped() {
                return;
            }
            self.apply_due();
            self.pass();
            // Signals, calls and notifications are received by other tasks of this thread. Without the yield
            // they do not run while the queue is filled as fast as it is read.
            yield_now().await;
        }
    }

    /// When to run without an event.
    fn wake_at(&self) -> Instant {
        let retry = self.reconcilers.next_retry().map(Instant::from_std);
        let next = self.next_resync.min(self.next_poll);
        retry.map_or(next, |retry| retry.min(next))
    }

    /// Applies the events of the clock that are due.
    fn apply_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_poll {
            self.next_poll = now + POLL;
            self.apply(Event::Poll);
        }
        if now >= self.next_resync {
            self.next_resync = now + RESYNC;
            self.apply(Event::Resync);
        }
    }

    fn apply_all(&mut self, first: Event, events: &mut mpsc::Receiver<Event>) {
        self.apply(first);
        for _ in 1..BATCH {
            match events.try_recv() {
                Ok(event) => self.apply(event),
                Err(_) => return,
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let started = (self.clock)();
        self.state.apply(event, || (self.clock)() - started < EXPLAINING);
    }

    fn pass(&mut self) {
        let started = Instant::now();
        self.state.set_now(started.into_std());
        self.state.compile();
        self.reconcilers.run(&mut self.state, &mut self.kernel);
        self.observer.observe(&self.state, started.elapsed());
        let programmed = self.state.take_programmed();
        if !programmed.is_empty() {
            self.observer.programmed(&programmed);
        }
        let found = self.state.take_findings();
        if let Some(findings) = &self.findings {
            findings.send(found);
        }
        self.respond();
    }

    fn respond(&mut self) {
        let calls = self.state.take_calls();
        if calls.is_empty() {
            return;
        }
        let view = View {
            state: &self.state,
            kernel: RefCell::new(&mut self.kernel),
            watches: &self.watches,
            lost: self.lost.get(),
        };
        for call in calls {
            call.respond(&view);
        }
    }
}

#[cfg(test)]
mod tests;
