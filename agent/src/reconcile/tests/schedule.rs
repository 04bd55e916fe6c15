//! Order, retries and marks of reconcilers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::conditions::{Concern, Status};
use crate::harness::{Harness, host};
use crate::kernel::Kernel;
use crate::kernel::fake::FakeKernel;
use crate::reconcile::{NotReconciled, Reconciler, Reconcilers};
use crate::state::State;

type Results = Rc<RefCell<VecDeque<Result<(), NotReconciled>>>>;
type Calls = Rc<RefCell<Vec<Concern>>>;

/// A concern, the one that it marks, and its results in turn.
type Script = (Concern, Option<Concern>, Vec<Result<(), NotReconciled>>);

/// Returns prepared results and records its calls, each of which takes `takes`.
struct Scripted {
    concern: Concern,
    marks: Option<Concern>,
    results: Results,
    calls: Calls,
    takes: Arc<AtomicU64>,
    clock: Arc<AtomicU64>,
}

impl Reconciler for Scripted {
    fn concern(&self) -> Concern {
        self.concern
    }

    fn reconcile(&mut self, state: &mut State, _: &mut dyn Kernel) -> Result<(), NotReconciled> {
        self.calls.borrow_mut().push(self.concern);
        self.clock.fetch_add(self.takes.load(Relaxed), Relaxed);
        state.mark(self.marks);
        self.results.borrow_mut().pop_front().unwrap_or(Ok(()))
    }
}

struct Schedule {
    state: State,
    kernel: FakeKernel,
    reconcilers: Reconcilers,
    calls: Calls,
    now: Instant,
    /// Milliseconds that each call takes.
    takes: Arc<AtomicU64>,
    /// Milliseconds since the start.
    clock: Arc<AtomicU64>,
}

impl Schedule {
    fn new(reconcilers: Vec<Script>) -> Schedule {
        let calls = Calls::default();
        let state = Harness::idle_state();
        let (takes, clock) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let scripted = reconcilers.into_iter().map(|(concern, marks, results)| {
            let results = Rc::new(RefCell::new(results.into()));
            let calls = Rc::clone(&calls);
            let (takes, clock) = (Arc::clone(&takes), Arc::clone(&clock));
            Box::new(Scripted { concern, marks, results, calls, takes, clock })
                as Box<dyn Reconciler>
        });
        let mut reconcilers = Reconcilers::new(scripted.collect());
        let now = state.now();
        let read = Arc::clone(&clock);
        reconcilers.clock = Box::new(move || now + Duration::from_millis(read.load(Relaxed)));
        Schedule { state, kernel: FakeKernel::new(host()), reconcilers, calls, now, takes, clock }
    }

    /// The reconcilers that run at this time after the start.
    fn run_at(&mut self, milliseconds: u64) -> Vec<Concern> {
        self.clock.store(milliseconds, Relaxed);
        self.state.set_now(self.now + Duration::from_millis(milliseconds));
        self.reconcilers.run(&mut self.state, &mut self.kernel);
        std::mem::take(&mut self.calls.borrow_mut())
    }
}

fn failed() -> Result<(), NotReconciled> {
    Err(NotReconciled::Failed("refused".to_owned()))
}

#[tokio::test]
async fn only_marked_concerns_run_and_later_marks_run_in_the_same_pass() {
    use Concern::{Devices, Pods, Routes};
    let mut schedule = Schedule::new(vec![
        (Devices, None, vec![]),
        (Routes, Some(Pods), vec![]),
        (Pods, Some(Devices), vec![]),
    ]);
    assert_eq!(schedule.run_at(0), []);
    schedule.state.mark([Routes]);
    assert_eq!(schedule.run_at(0), [Routes, Pods, Devices]);
    assert_eq!(schedule.run_at(0), []);
}

#[tokio::test]
async fn concerns_that_mark_each_other_do_not_run_forever() {
    use Concern::{Pods, Routes};
    let mut schedule =
        Schedule::new(vec![(Routes, Some(Pods), vec![]), (Pods, Some(Routes), vec![])]);
    schedule.state.mark([Routes]);
    assert_eq!(schedule.run_at(0).len(), 2 * crate::reconcile::PASSES);
}

#[tokio::test]
async fn failure_is_retried_on_its_own_schedule() {
    use Concern::{Pods, Routes};
    let mut schedule = Schedule::new(vec![
        (Routes, None, vec![failed(), failed(), Ok(())]),
        (Pods, None, vec![failed()]),
    ]);
    schedule.state.mark([Routes]);
    assert_eq!(schedule.run_at(0), [Routes]);
    let retry = |s: &Schedule| s.reconcilers.next_retry().map(|at| (at - s.now).as_millis());
    assert_eq!(retry(&schedule), Some(200));
    schedule.state.mark([Pods]);
    assert_eq!(schedule.run_at(100), [Pods]);
    assert_eq!(schedule.run_at(199), []);
    assert_eq!(schedule.run_at(200), [Routes]);
    assert_eq!(schedule.run_at(300), [Pods]);
    assert_eq!(retry(&schedule), Some(600));
    assert_eq!(schedule.run_at(600), [Routes]);
    assert_eq!(retry(&schedule), None);
    assert_eq!(schedule.state.conditions.iter().count(), 0);
}

#[tokio::test]
async fn slow_failures_leave_time_for_events() {
    use Concern::{Growth, Pins};
    let mut schedule = Schedule::new(vec![
        (Pins, None, vec![failed()]),
        (Growth, None, vec![failed(), failed(), failed()]),
    ]);
    schedule.takes.store(3_000, Relaxed);
    // The second attempt begins when the first one has ended.
    schedule.state.mark([Pins, Growth]);
    assert_eq!(schedule.run_at(0), [Pins, Growth]);
    let retry = |s: &Schedule| s.reconcilers.next_retry().map(|at| (at - s.now).as_millis());
    assert_eq!(retry(&schedule), Some(3_200));
    assert_eq!(schedule.run_at(6_199), [Pins]);
    assert_eq!(schedule.run_at(10_000), [Growth]);
    assert_eq!(retry(&schedule), Some(13_400));
    // An attempt by an event, before the retry is due, that ends after that time counts as the retry.
    schedule.state.mark([Growth]);
    assert_eq!(schedule.run_at(13_000), [Growth]);
    assert_eq!(retry(&schedule), Some(16_800));
}

#[tokio::test]
async fn waiting_is_evaluated_in_every_pass_without_a_retry() {
    use Concern::{Pods, Routes};
    let waiting = || Err(NotReconciled::Waiting("no uplink is known"));
    let mut schedule = Schedule::new(vec![
        (Pods, None, vec![]),
        (Routes, None, vec![waiting(), waiting(), Ok(())]),
    ]);
    schedule.state.mark([Routes]);
    assert_eq!(schedule.run_at(0), [Routes]);
    assert_eq!(schedule.reconcilers.next_retry(), None);
    assert_eq!(schedule.state.conditions.get(Routes).unwrap().status, Status::Waiting);
    schedule.state.mark([Pods]);
    assert_eq!(schedule.run_at(1), [Pods, Routes]);
    assert_eq!(schedule.run_at(2), [Routes]);
    assert!(schedule.state.conditions.get(Routes).is_none());
    assert_eq!(schedule.run_at(3), []);
}

#[tokio::test]
async fn degraded_is_reported_and_not_retried() {
    use Concern::CniFiles;
    let degraded = Err(NotReconciled::Degraded("no podCIDR".to_owned()));
    let mut schedule = Schedule::new(vec![(CniFiles, None, vec![failed(), degraded])]);
    schedule.state.mark([CniFiles]);
    assert_eq!(schedule.run_at(0), [CniFiles]);
    assert_eq!(schedule.run_at(200), [CniFiles]);
    assert_eq!(schedule.reconcilers.next_retry(), None);
    let condition = schedule.state.conditions.get(CniFiles).unwrap();
    assert_eq!((condition.status, condition.message.as_str()), (Status::Degraded, "no podCIDR"));
    assert_eq!(schedule.run_at(60_000), []);
    schedule.state.mark([CniFiles]);
    schedule.run_at(60_000);
    assert!(schedule.state.conditions.get(CniFiles).is_none());
}
