//! The heartbeat that `/livez` depends on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::event::Event;
use crate::event_loop::{EventLoop, HEARTBEAT, Observer, RESYNC};
use crate::harness::{Harness, host};
use crate::kernel::fake::FakeKernel;
use crate::reconcile::Reconcilers;
use crate::state::State;

#[derive(Clone, Default)]
struct Heartbeats(Arc<AtomicUsize>);

impl Observer for Heartbeats {
    fn alive(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn observe(&mut self, _: &State, _: Duration) {}
}

#[tokio::test(start_paused = true)]
async fn idle_loop_shows_that_it_is_alive() {
    let beats = Heartbeats::default();
    let state = State::new(Harness::new().config().clone(), Instant::now().into_std());
    let reconcilers = Reconcilers::all();
    let kernel = FakeKernel::new(host());
    let mut event_loop = EventLoop::new(state, kernel, reconcilers, Box::new(beats.clone()));
    let (_events, mut queue) = mpsc::channel::<Event>(1);
    // The first pass and its retries.
    let _ = timeout(RESYNC, event_loop.run(&mut queue)).await;
    let before = beats.0.load(Ordering::Relaxed);
    let _ = timeout(10 * RESYNC, event_loop.run(&mut queue)).await;
    let heartbeats = beats.0.load(Ordering::Relaxed) - before;
    let expected = 10 * RESYNC.as_secs() / HEARTBEAT.as_secs();
    assert!(heartbeats as u64 >= expected - 1, "{heartbeats} heartbeats");
}
