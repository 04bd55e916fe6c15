//! When a watch tries again.
//!
//! ```text
//!                 +-- no response from the server --> wait for the turn, or for any success
//! attempt failed -+
//!                 +-- the server responded ---------> own exponential backoff, 0.25 s to 30 s
//! ```
//! While the server does not respond, one watch at a time has the turn: its own request is the
//! probe, about once a second however long the outage lasts. The first response of the server wakes
//! all watches. A cluster of 1,000 nodes therefore sends about 1,000 connection attempts a second to
//! a server that is absent, spread by jitter, and 4,000 further requests, spread over
//! [`WAKE_SPREAD`], when it returns. These resume watches at their resource version; they list only
//! if the server no longer has that version.
//!
//! A server that responds and refuses (403, 429, 410, an object that cannot be parsed, a stream that
//! breaks at once) is not absent: each watch backs off by itself, also against the successes of
//! others, so two watches that fail never wake each other in a loop. `Retry-After` is observed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Time between probes of an absent server, before jitter; measured from start to start, because a
/// probe without a response takes time itself.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time from the end of a probe to the next one, before jitter.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// Watches that are woken start within this time.
const WAKE_SPREAD: Duration = Duration::from_millis(300);
/// First and longest pause after a refusal, before jitter.
const REFUSAL_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A watch that worked this long starts again with the first pause.
const GOOD: Duration = Duration::from_secs(30);

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server did not respond, or only with an error of a server that does not work (5xx, 401).
    Absent,
    /// The server responded with an error; the next request follows after this time at the earliest.
    Refused(Duration),
}

/// What all watches share.
#[derive(Clone, Debug)]
pub struct Retries {
    turn: Arc<Mutex<Instant>>,
    holder: Arc<std::sync::Mutex<Option<Turn>>>,
    watches: Arc<AtomicU64>,
    successes: Arc<watch::Sender<u64>>,
    /// A number from 0 to 1.
    random: fn() -> f64,
}

/// The turn of a watch whose attempt is the probe. Any success ends it: a watch that resumes gets no event
/// until an object changes, and those that fail after its success wait for the turn.
#[derive(Debug)]
struct Turn {
    /// Number of the watch.
    watch: u64,
    /// The time of the next probe.
    next: OwnedMutexGuard<Instant>,
}

/// The retries of one watch.
#[derive(Debug)]
pub struct Retry {
    shared: Retries,
    number: u64,
    started: Instant,
    refusals: u32,
}

impl Retries {
    /// Jitter is taken from `random`, which returns numbers from 0 to 1.
    pub fn new(random: fn() -> f64) -> Retries {
        Retries {
            turn: Arc::new(Mutex::new(Instant::now())),
            holder: Arc::default(),
            watches: Arc::default(),
            successes: Arc::default(),
            random,
        }
    }

    /// The server responded, or its address or credentials changed: every watch tries again.
    pub fn wake_all(&self) {
        drop(self.take_turn(|_| true));
        self.successes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// The retries of one watch.
    pub fn watch(&self) -> Retry {
        let number = self.watches.fetch_add(1, Ordering::Relaxed);
        Retry { shared: self.clone(), number, started: Instant::now(), refusals: 0 }
    }

    /// Takes the turn from the watch that has it, if it matches.
    fn take_turn(&self, matches: impl Fn(&Turn) -> bool) -> Option<Turn> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.take_if(|turn| matches(turn))
    }

    /// 0.5 to 1.5 times the duration.
    fn jitter(&self, duration: Duration) -> Duration {
        duration.mul_f64(0.5 + (self.random)())
    }
}

impl Retry {
    /// Waits until the watch may try again.
    pub async fn wait(&mut self, failure: Failure) {
        let worked = self.started.elapsed();
        match failure {
            Failure::Refused(at_least) => {
                drop(self.take_turn());
                if worked >= GOOD {
                    self.refusals = 0;
                }
                let pause = REFUSAL_PAUSES.0.saturating_mul(2u32.saturating_pow(self.refusals));
                self.refusals = self.refusals.saturating_add(1).min(16);
                let pause = pause.min(REFUSAL_PAUSES.1).max(at_least);
                sleep(self.shared.jitter(pause)).await;
            }
            Failure::Absent => {
                let mut successes = self.shared.successes.subscribe();
                if let Some(mut turn) = self.take_turn() {
                    let earliest = Instant::now() + self.shared.jitter(PROBE_PAUSE);
                    let due = self.started + self.shared.jitter(PROBE_INTERVAL);
                    *turn.next = due.max(earliest);
                }
                let turn = probe(Arc::clone(&self.shared.turn));
                tokio::select! {
                    next = turn => self.hold_turn(next),
                    _ = successes.changed() => {
                        sleep(WAKE_SPREAD.mul_f64((self.shared.random)())).await;
                    }
                }
            }
        }
        self.started = Instant::now();
    }

    /// The reason for refusals has changed: starts again with the first pause, within the time of watches
    /// that are woken.
    pub async fn woken(&mut self) {
        self.refusals = 0;
        sleep(WAKE_SPREAD.mul_f64((self.shared.random)())).await;
        self.started = Instant::now();
    }

    /// The server responded to this watch.
    pub fn responded(&mut self) {
        drop(self.take_turn());
    }

    fn take_turn(&self) -> Option<Turn> {
        self.shared.take_turn(|turn| turn.watch == self.number)
    }

    fn hold_turn(&self, next: OwnedMutexGuard<Instant>) {
        let mut holder = self.shared.holder.lock().unwrap_or_else(PoisonError::into_inner);
        *holder = Some(Turn { watch: self.number, next });
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        drop(self.take_turn());
    }
}

/// The turn, once the next probe is due.
async fn probe(turn: Arc<Mutex<Instant>>) -> OwnedMutexGuard<Instant> {
    let due = turn.lock_owned().await;
    sleep_until(*due).await;
    due
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// An even sequence of numbers from 0 to 1.
    fn random() -> f64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        (NEXT.fetch_add(1, Ordering::Relaxed) * 7 % 11) as f64 / 10.0
    }

    #[tokio::test(start_paused = true)]
    async fn one_watch_probes_an_absent_server_about_once_a_second() {
        let retries = Retries::new(random);
        let probes = Arc::new(AtomicU64::new(0));
        for _ in 0..5 {
            let (mut retry, probes) = (retries.watch(), Arc::clone(&probes));
            tokio::spawn(async move {
                loop {
                    retry.wait(Failure::Absent).await;
                    probes.fetch_add(1, Ordering::Relaxed);
                    // No response.
                    sleep(Duration::from_millis(200)).await;
                }
            });
        }
        sleep(Duration::from_secs(600)).await;
        let probes = probes.load(Ordering::Relaxed);
        assert!((500..=700).contains(&probes), "{probes} probes in 600 s");
    }

    #[tokio::test(start_paused = true)]
    async fn one_success_wakes_all_watches_after_any_outage() {
        for outage in [1, 60, 86_400] {
            let retries = Retries::new(random);
            let up = Instant::now() + Duration::from_secs(outage);
            let watches = (0..5).map(|_| {
                let (retries, mut retry) = (retries.clone(), retries.watch());
                tokio::spawn(async move {
                    while Instant::now() < up {
                        retry.wait(Failure::Absent).await;
                    }
                    retry.responded();
                    retries.wake_all();
                    up.elapsed()
                })
            });
            for watch in watches.collect::<Vec<_>>() {
                let late = watch.await.unwrap();
                assert!(late <= Duration::from_secs(2), "{late:?} after an outage of {outage} s");
            }
        }
    }

    /// The request of a watch fails, that of another one succeeds, and only then the first one waits.
    #[tokio::test(start_paused = true)]
    async fn watch_that_waits_after_the_success_of_another_one_is_not_left_behind() {
        let retries = Retries::new(random);
        let (mut first, mut second) = (retries.watch(), retries.watch());
        first.wait(Failure::Absent).await;
        // It resumes at its resource version: no event follows.
        retries.wake_all();
        let waited = timeout(Duration::from_secs(2), second.wait(Failure::Absent)).await;
        assert!(waited.is_ok(), "no further success wakes it");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_watch_backs_off_whatever_the_others_do() {
        let retries = Retries::new(random);
        let waker = retries.clone();
        tokio::spawn(async move {
            loop {
                waker.wake_all();
                sleep(Duration::from_millis(10)).await;
            }
        });
        let (mut retry, start) = (retries.watch(), Instant::now());
        for _ in 0..20 {
            retry.wait(Failure::Refused(Duration::ZERO)).await;
        }
        assert!(start.elapsed() > Duration::from_secs(120), "{:?}", start.elapsed());
        // A watch that worked for a while starts again with a short pause.
        sleep(GOOD).await;
        let start = Instant::now();
        retry.wait(Failure::Refused(Duration::ZERO)).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let start = Instant::now();
        retry.wait(Failure::Refused(Duration::from_secs(10))).await;
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
