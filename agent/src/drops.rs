//! Reads the events of dropped packets, in a thread of its own, and passes samples to the event loop.
//!
//! ```text
//! programs --EVENTS--> thread: at most 32 each 100 ms --Event::Drops--> state: explained, kept for `sluice drops`
//! ```
//! Nothing waits for the event loop: what it cannot take is counted as lost. The counters of the programs
//! are exact, whatever is lost here.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use crate::event::{DroppedPacket, Event};
use crate::kernel::DropEvents;

/// Most events of one batch.
const BATCH: usize = 32;
/// Time between two batches.
const PAUSE: Duration = Duration::from_millis(100);
/// Time after which the pin is compared.
const IDLE: Duration = Duration::from_secs(2);

/// Starts the thread, which reads the queue that `open` returns. It calls `open` again after the queue was
/// replaced, and ends when the event loop has ended. `lost` counts events that were not passed on.
///
/// # Errors
/// The thread cannot be created.
pub fn spawn<Q: DropEvents, E: fmt::Display>(
    open: impl Fn() -> Result<Q, E> + Send + 'static,
    events: mpsc::Sender<Event>,
    lost: Counter,
) -> io::Result<()> {
    let follow = move || follow(open, &events, &lost);
    thread::Builder::new().name("drops".to_owned()).spawn(follow).map(drop)
}

fn follow<Q: DropEvents, E: fmt::Display>(
    open: impl Fn() -> Result<Q, E>,
    events: &mpsc::Sender<Event>,
    lost: &Counter,
) {
    while !events.is_closed() {
        match open() {
            Ok(mut ring) => {
                while !events.is_closed() && ring.is_current() {
                    if let Err(error) = ring.wait(IDLE) {
                        tracing::debug!(%error, "could not wait for events of dropped packets");
                    }
                    let started = clock_started();
                    let packets = std::iter::from_fn(|| ring.next()).map(|event| DroppedPacket {
                        at: started + Duration::from_nanos(event.at_ns),
                        event,
                    });
                    pass_on(packets, events, lost);
                    thread::sleep(PAUSE);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "could not open the events of dropped packets");
                thread::sleep(IDLE);
            }
        }
    }
}

/// When the clock of the programs (CLOCK_MONOTONIC) was 0, by the present time.
fn clock_started() -> SystemTime {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    SystemTime::now().checked_sub(monotonic).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Passes the first events on and counts the others.
fn pass_on(
    found: impl Iterator<Item = DroppedPacket>,
    events: &mpsc::Sender<Event>,
    lost: &Counter,
) {
    let (mut batch, mut beyond) = (Vec::new(), 0);
    for event in found {
        if batch.len() < BATCH {
            batch.push(event);
        } else {
            beyond += 1;
        }
    }
    let count = batch.len() as u64;
    if count > 0 && events.try_send(Event::Drops(batch)).is_err() {
        beyond += count;
    }
    lost.inc_by(beyond);
}

#[cfg(test)]
mod tests {
    use sluice_abi::DropEvent;

    use super::*;

    #[test]
    fn events_beyond_a_batch_and_those_of_a_busy_loop_are_lost_and_counted() {
        let (sender, mut receiver) = mpsc::channel(1);
        let lost = Counter::default();
        let packet = DroppedPacket { at: SystemTime::now(), event: DropEvent::default() };
        let found = |n| std::iter::repeat_n(packet, n);
        pass_on(found(0), &sender, &lost);
        pass_on(found(BATCH + 3), &sender, &lost);
        assert_eq!(lost.get(), 3);
        pass_on(found(2), &sender, &lost);
        assert_eq!(lost.get(), 5, "the queue is full");
        let Ok(Event::Drops(batch)) = receiver.try_recv() else { panic!("no batch") };
        assert_eq!(batch.len(), BATCH);
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn time_of_a_drop_is_that_of_the_programs_clock() {
        let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into();
        let now = clock_started() + now;
        let difference = match SystemTime::now().duration_since(now) {
            Ok(past) => past,
            Err(future) => future.duration(),
        };
        assert!(difference < Duration::from_secs(1), "{difference:?}");
    }
}
