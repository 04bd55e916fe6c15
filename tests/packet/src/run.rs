//! The result of one packet in one program, and assertions on it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use sluice_abi::{Counter, DropReason, Outcome};
use sluice_bpf::test_run::Action;

use crate::counters::Counters;
use crate::{Packet, show};

/// The reasons of policies.
const BY_POLICY: [&str; 3] = [
    DropReason::PolicyEgress.label(),
    DropReason::PolicyIngress.label(),
    DropReason::PolicyPending.label(),
];

/// What a program did with one frame.
///
/// A test has to state every counter that moved: a value that is dropped without
/// [`Run::counted`], or one of the assertions that call it, fails the test.
#[derive(Debug)]
#[must_use]
pub struct Run {
    /// The frame that went in.
    pub frame: Vec<u8>,
    /// The frame that came out.
    pub data: Vec<u8>,
    /// The action that the program returned.
    pub action: Action,
    /// What this frame added to the counters.
    pub counters: Counters,
    /// Duration of the run, with some 40 ns for the kernel's clock.
    pub time: Duration,
    stated: Cell<bool>,
}

impl Run {
    pub(crate) fn new(frame: Vec<u8>, ran: sluice_bpf::test_run::Ran, counters: Counters) -> Run {
        let (action, data, time) = (ran.action, ran.data, ran.time);
        Run { frame, data, action, counters, time, stated: Cell::new(false) }
    }

    /// Asserts that exactly these counters moved, each by this frame.
    #[track_caller]
    pub fn counted(&self, labels: &[&'static str]) {
        self.counted_times(labels, 1);
    }

    /// The counters that moved, which the test compares itself.
    pub fn labels(&self) -> Vec<&'static str> {
        self.stated.set(true);
        self.counters.keys().copied().collect()
    }

    #[track_caller]
    fn counted_times(&self, labels: &[&'static str], times: u32) {
        self.stated.set(true);
        let bytes = u64::from(times) * self.frame.len() as u64;
        let counter = Counter { packets: times.into(), bytes };
        let expected: BTreeMap<_, _> = labels.iter().map(|label| (*label, counter)).collect();
        let mut found = self.counters.clone();
        // It is counted with the reasons of policies, of which most tests are about packets of any kind.
        let mid_stream = Outcome::MidStream.label();
        if labels.iter().any(|label| BY_POLICY.contains(label)) && !labels.contains(&mid_stream) {
            found.remove(mid_stream);
        }
        assert_eq!(found, expected, "counters, action {:?}", self.action);
    }

    #[track_caller]
    fn counted_with(&self, last: Outcome, others: &[Outcome]) {
        let labels: Vec<_> = others.iter().chain([&last]).map(|o| o.label()).collect();
        self.counted(&labels);
    }

    /// The frame that came out, with valid lengths and checksums.
    #[track_caller]
    pub fn packet(&self) -> Packet {
        Packet::read(&self.data).unwrap_or_else(|e| panic!("{e} in {}", show(&self.data)))
    }

    /// Asserts that the packet was redirected into a pod of this node, and counted as such and as
    /// `others`.
    #[track_caller]
    pub fn to_pod(&self, others: &[Outcome]) -> Packet {
        self.counted_with(Outcome::ToPod, others);
        assert_eq!(self.action, Action::Redirect);
        self.packet()
    }

    /// Asserts that the packet was redirected to the uplink, and counted as such and as `others`.
    #[track_caller]
    pub fn to_uplink(&self, others: &[Outcome]) -> Packet {
        self.counted_with(Outcome::ToUplink, others);
        assert_eq!(self.action, Action::Redirect);
        self.packet()
    }

    /// Asserts that the packet went on to the stack, and was counted as such and as `others`.
    #[track_caller]
    pub fn to_stack(&self, others: &[Outcome]) -> Packet {
        self.counted_with(Outcome::ToStack, others);
        assert_eq!(self.action, Action::Next);
        self.packet()
    }

    /// Asserts that the packet was dropped for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        self.dropped_times(reason, 1);
    }

    /// Asserts that each of several runs dropped the packet for this reason.
    #[track_caller]
    pub fn dropped_times(&self, reason: DropReason, times: u32) {
        self.counted_times(&[reason.label()], times);
        assert_eq!(self.action, Action::Drop);
    }

    /// Asserts that the packet was answered with an ICMP error for this reason.
    #[track_caller]
    pub fn rejected(&self, reason: DropReason) -> Packet {
        self.counted(&[reason.label(), Outcome::Rejected.label()]);
        assert_eq!(self.action, Action::Redirect);
        self.packet()
    }

    /// Asserts that the frame was left alone: unchanged, not counted, next program.
    #[track_caller]
    pub fn passed(&self) {
        self.counted(&[]);
        assert_eq!(self.action, Action::Next);
        assert_eq!(self.data, self.frame, "{}", show(&self.data));
    }

    /// Whether the frame was queued again at its hook, unchanged and not counted.
    #[track_caller]
    pub fn is_requeued(&self) -> bool {
        if self.action != Action::Redirect || !self.counters.is_empty() {
            return false;
        }
        self.counted(&[]);
        assert_eq!(self.data, self.frame, "{}", show(&self.data));
        true
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.stated.get() && !std::thread::panicking() {
            panic!("the test does not state which counters moved: {:?}", self.counters);
        }
    }
}
