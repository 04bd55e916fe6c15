//! Reads the events of dropped packets, in a thread of its own, and passes samples to the event loop.
//!
//! ```text
//! programs --EVENTS--> thread: at most 32 each 100 ms, the most different ones --Event::Drops--> state: explained, kept for `sluice drops`
//! ```
//! Nothing waits for the event loop: what it cannot take is counted as lost, as the programs count what they do
//! not write. So the samples and the lost events together are the dropped packets that the programs count. The
//! programs of another version, which drop packets until the hooks are switched, have their own queue, whose events
//! are counted as lost.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use prometheus_client::metrics::counter::Counter;
use sluice_abi::{Addr, DropEvent, PortBe};
use tokio::sync::mpsc;

use crate::event::{DroppedPacket, Event};
use crate::kernel::DropEvents;

/// Most events of one batch.
const BATCH: usize = 32;
/// Time between two batches.
const PAUSE: Duration = Duration::from_millis(100);
/// Time after which the pin is compared: events in another queue wait for as long.
const IDLE: Duration = Duration::from_millis(250);

/// The clock of [`sluice_abi::DropEvent::at_ns`], which includes the time for which a machine was suspended.
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;

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
    let follow = move || follow(open, &events, &lost, thread::sleep);
    thread::Builder::new().name("drops".to_owned()).spawn(follow).map(drop)
}

fn follow<Q: DropEvents, E: fmt::Display>(
    open: impl Fn() -> Result<Q, E>,
    events: &mpsc::Sender<Event>,
    lost: &Counter,
    sleep: impl Fn(Duration),
) {
    while !events.is_closed() {
        match open() {
            Ok(mut ring) => {
                let mut is_current = true;
                while !events.is_closed() && is_current {
                    if let Err(error) = ring.wait(IDLE) {
                        tracing::debug!(%error, "could not wait for events of dropped packets");
                    }
                    // Before the last events are read.
                    is_current = ring.is_current();
                    let started = clock_started();
                    let packets = std::iter::from_fn(|| ring.next()).map(|event| DroppedPacket {
                        at: started + Duration::from_nanos(event.at_ns),
                        event,
                    });
                    pass_on(packets, events, lost);
                    lost.inc_by(ring.skip_others());
                    if is_current {
                        sleep(PAUSE);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "could not open the events of dropped packets");
                sleep(IDLE);
            }
        }
    }
}

/// When the clock of the programs was 0, by the present time.
fn clock_started() -> SystemTime {
    let since_boot = clock_gettime(CLOCK).map(Duration::from).unwrap_or_default();
    SystemTime::now().checked_sub(since_boot).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Passes events on, as many as a batch has, and counts the others.
fn pass_on(
    found: impl Iterator<Item = DroppedPacket>,
    events: &mpsc::Sender<Event>,
    lost: &Counter,
) {
    let found: Vec<DroppedPacket> = found.collect();
    let read = found.len();
    let batch = sample(found);
    let mut beyond = (read - batch.len()) as u64;
    let count = batch.len() as u64;
    if count > 0 && events.try_send(Event::Drops(batch)).is_err() {
        beyond += count;
    }
    lost.inc_by(beyond);
}

/// As many events as a batch has, in their order. Those come first that have the fewest like them before them: of
/// the same flow, then of the same source or destination, each with the same reason, then of the same reason.
fn sample(mut found: Vec<DroppedPacket>) -> Vec<DroppedPacket> {
    if found.len() <= BATCH {
        return found;
    }
    let mut seen = Seen::default();
    let likeness = found.iter().map(|packet| seen.add(&packet.event));
    let mut order: Vec<_> = likeness.zip(0..).collect();
    order.sort_unstable();
    order.truncate(BATCH);
    let chosen: BTreeSet<usize> = order.into_iter().map(|(_, at)| at).collect();
    let mut at = 0..;
    found.retain(|_| at.next().is_some_and(|at| chosen.contains(&at)));
    found
}

/// Numbers of events.
#[derive(Default)]
struct Seen {
    flows: HashMap<(u8, Addr, Addr, u8, PortBe), usize>,
    sources: HashMap<(u8, Addr), usize>,
    destinations: HashMap<(u8, Addr, u8, PortBe), usize>,
    reasons: HashMap<u8, usize>,
}

impl Seen {
    /// How many earlier events were like this one: by flow, by source and destination, by reason.
    fn add(&mut self, event: &DropEvent) -> (usize, usize, usize) {
        fn next<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) -> usize {
            let count = counts.entry(key).or_default();
            *count += 1;
            *count - 1
        }
        let DropEvent { flow, reason, .. } = event;
        // Without the source port, which is another one for each connection.
        let of_flow = (*reason, flow.src, flow.dst, flow.proto, flow.dport);
        let of_flow = next(&mut self.flows, of_flow);
        let source = next(&mut self.sources, (*reason, flow.src));
        let destination = (*reason, flow.dst, flow.proto, flow.dport);
        let destination = next(&mut self.destinations, destination);
        (of_flow, source + destination, next(&mut self.reasons, *reason))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use sluice_abi::FlowKey;

    use super::*;

    /// Time of the test, and the queue of each load of the programs: when its events are written, and when it
    /// is replaced. Programs of another version write events at some of these times.
    #[derive(Default)]
    struct Programs {
        now: Cell<Duration>,
        queues: RefCell<VecDeque<(VecDeque<Duration>, Duration)>>,
        of_others: RefCell<VecDeque<Duration>>,
    }

    struct Ring<'a> {
        programs: &'a Programs,
        written: VecDeque<Duration>,
        replaced: Duration,
    }

    impl DropEvents for Ring<'_> {
        fn is_current(&self) -> bool {
            self.programs.now.get() < self.replaced
        }

        fn wait(&self, timeout: Duration) -> io::Result<()> {
            let now = self.programs.now.get();
            let next = self.written.front().map_or(now + timeout, |next| *next);
            self.programs.now.set(next.clamp(now, now + timeout));
            Ok(())
        }

        fn next(&mut self) -> Option<DropEvent> {
            self.written.front().filter(|at| **at <= self.programs.now.get())?;
            let at = self.written.pop_front()?;
            Some(DropEvent { at_ns: at.as_nanos() as u64, ..DropEvent::default() })
        }

        fn skip_others(&mut self) -> u64 {
            let mut of_others = self.programs.of_others.borrow_mut();
            let written = of_others.iter().take_while(|at| **at <= self.programs.now.get()).count();
            of_others.drain(..written).count() as u64
        }
    }

    /// Reads the queues until then; returns when each event was written and passed on.
    fn passed_on(programs: &Programs, until: Duration) -> Vec<(Duration, Duration)> {
        let (at, lost) = passed_on_and_lost(programs, until);
        assert_eq!(lost, 0);
        at
    }

    /// As [`passed_on`], and the number of lost events.
    fn passed_on_and_lost(
        programs: &Programs,
        until: Duration,
    ) -> (Vec<(Duration, Duration)>, u64) {
        let (sender, receiver) = mpsc::channel(1024);
        let receiver = RefCell::new(Some(receiver));
        let (lost, at) = (Counter::default(), RefCell::new(Vec::new()));
        let open = || {
            let (written, replaced) = programs.queues.borrow_mut().pop_front().ok_or("none")?;
            Ok::<_, &str>(Ring { programs, written, replaced })
        };
        let sleep = |pause| {
            let now = programs.now.get();
            let mut receiver = receiver.borrow_mut();
            while let Some(Ok(Event::Drops(batch))) = receiver.as_mut().map(|r| r.try_recv()) {
                let written = |packet: &DroppedPacket| Duration::from_nanos(packet.event.at_ns);
                at.borrow_mut().extend(batch.iter().map(|packet| (written(packet), now)));
            }
            programs.now.set(now + pause);
            if now > until {
                *receiver = None;
            }
        };
        follow(open, &sender, &lost, sleep);
        (at.into_inner(), lost.get())
    }

    /// `sluice drops --follow` shows it up to half a second later.
    #[test]
    fn event_is_passed_on_within_100_ms() {
        let ms = Duration::from_millis;
        let programs = Programs::default();
        // At any time of the pause between two batches, after pauses of any length.
        let mut written: Vec<Duration> = (0..300).map(|n| ms(n * 37 + n * n % 101)).collect();
        written.sort_unstable();
        let end = ms(1_000_000);
        programs.queues.borrow_mut().push_back((written.iter().copied().collect(), end));
        let found = passed_on(&programs, ms(12_000));
        assert_eq!(found.iter().map(|(written, _)| *written).collect::<Vec<_>>(), written);
        for (written, passed_on) in found {
            assert!(passed_on - written <= ms(100), "{written:?}: {passed_on:?}");
        }
    }

    #[test]
    fn no_event_is_missed_or_late_while_the_queue_is_replaced() {
        let ms = Duration::from_millis;
        let programs = Programs::default();
        // The last event of the first queue, and the first one of the second, at the time of the replacement.
        programs.queues.borrow_mut().extend([
            ([ms(500), ms(510), ms(559)].into(), ms(560)),
            ([ms(560), ms(2000)].into(), ms(1_000_000)),
        ]);
        let found = passed_on(&programs, ms(3_000));
        let written: Vec<Duration> = found.iter().map(|(written, _)| *written).collect();
        assert_eq!(written, [500, 510, 559, 560, 2000].map(ms));
        for (written, passed_on) in found {
            assert!(passed_on - written <= ms(400), "{written:?}: {passed_on:?}");
        }
    }

    #[test]
    fn events_of_another_version_are_counted_as_lost_until_it_has_handed_over() {
        let ms = Duration::from_millis;
        let programs = Programs::default();
        programs.queues.borrow_mut().push_back(([ms(900), ms(2000)].into(), ms(1_000_000)));
        // Before the agent starts, until after the first events of its own programs.
        programs.of_others.borrow_mut().extend([0, 0, 500, 899, 901].map(ms));
        let (found, lost) = passed_on_and_lost(&programs, ms(3_000));
        assert_eq!(
            found.iter().map(|(written, _)| *written).collect::<Vec<_>>(),
            [900, 2000].map(ms)
        );
        assert_eq!(lost, 5);
    }

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
    fn noisy_drops_of_a_batch_leave_space_for_others() {
        let dropped = |source: u32, destination: u32, port: u16, reason: u8| {
            let flow = FlowKey {
                src: Addr::v4(source.to_be_bytes()),
                dst: Addr::v4(destination.to_be_bytes()),
                dport: PortBe::new(port),
                ..FlowKey::default()
            };
            let event = DropEvent { flow, reason, ..DropEvent::default() };
            DroppedPacket { at: SystemTime::now(), event }
        };
        let is_passed = |flood: &dyn Fn(u32) -> DroppedPacket, other: DroppedPacket| {
            let (sender, mut receiver) = mpsc::channel(1);
            let lost = Counter::default();
            let found = (0..500).map(flood).chain([other]).chain((500..600).map(flood));
            let at = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(n);
            let found = found.zip(0..).map(|(packet, n)| DroppedPacket { at: at(n), ..packet });
            pass_on(found, &sender, &lost);
            let Ok(Event::Drops(batch)) = receiver.try_recv() else { panic!("no batch") };
            assert_eq!((batch.len(), lost.get()), (BATCH, 601 - BATCH as u64));
            assert!(batch.is_sorted_by_key(|packet| packet.at), "in their order");
            batch.iter().any(|packet| packet.event == other.event)
        };
        let one = |_: u32| dropped(1, 2, 80, 21);
        for other in [(3, 2, 80, 21), (1, 3, 80, 21), (1, 2, 81, 21), (1, 2, 80, 20)] {
            let (source, destination, port, reason) = other;
            assert!(is_passed(&one, dropped(source, destination, port, reason)), "{other:?}");
        }
        let other = dropped(8, 9, 80, 21);
        assert!(is_passed(&|n| dropped(1, n + 10, n as u16, 21), other), "a scan");
        assert!(is_passed(&|n| dropped(n + 10, 2, 80, 21), other), "forged senders");
        let any = |n: u32| dropped(n + 1_000, n + 1_000, n as u16, 21);
        assert!(is_passed(&any, dropped(8, 9, 80, 20)), "another reason");
    }

    #[test]
    fn time_of_a_drop_is_that_of_the_programs_clock() {
        let now: Duration = clock_gettime(CLOCK).unwrap().into();
        let now = clock_started() + now;
        let difference = match SystemTime::now().duration_since(now) {
            Ok(past) => past,
            Err(future) => future.duration(),
        };
        assert!(difference < Duration::from_secs(1), "{difference:?}");
    }
}
