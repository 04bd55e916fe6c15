//! Other tasks of the loop's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::event::Event;
use crate::event_loop::{EventLoop, Observer};
use crate::harness::{Harness, host};
use crate::kernel::fake::FakeKernel;
use crate::reconcile::Reconcilers;
use crate::state::State;

/// Passes after which the queue gets [`Event::Stop`].
const PASSES: usize = 1000;

/// Fills the queue in each pass: as fast as it is read.
struct Flood {
    queue: mpsc::Sender<Event>,
    passes: Arc<AtomicUsize>,
}

impl Observer for Flood {
    fn observe(&mut self, _: &State, _: Duration) {
        let passes = self.passes.fetch_add(1, Ordering::Relaxed) + 1;
        let event = if passes < PASSES { Event::Leases } else { Event::Stop };
        self.queue.try_send(event).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_while_the_queue_is_never_empty() {
    let (queue, mut events) = mpsc::channel(8);
    let passes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&passes);
    let task = tokio::spawn(async move { seen.load(Ordering::Relaxed) });
    let observer = Box::new(Flood { queue, passes });
    let state = Harness::idle_state();
    let kernel = FakeKernel::new(host());
    EventLoop::new(state, kernel, Reconcilers::all(), observer).run(&mut events).await;
    let passes = task.await.unwrap();
    assert!(passes <= 3, "ran after {passes} passes");
}
