//! What holds for every frame at every hook: one outcome, of which the counters are a record; a pod sends
//! from its own addresses only; what reaches a pod has valid lengths, and valid checksums if it had them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use packet_tests::topology::pod_mac;
use packet_tests::*;
use sluice_abi::{Counter, DropReason, Outcome, program};

/// A program and the interface index that it runs on.
pub type Hook = (&'static str, u32);

pub const HOOKS: [Hook; 4] = [
    (program::FROM_POD, CLIENT_IFINDEX),
    (program::TO_POD, CLIENT_IFINDEX),
    (program::FROM_NETDEV, UPLINK_IFINDEX),
    (program::TO_NETDEV, UPLINK_IFINDEX),
];

/// Outcomes of frames that a pod's device passes.
const DELIVERED: [&str; 4] = ["to_pod", "to_uplink", "to_stack", "passed"];

/// Checks frames, and counts their outcomes.
pub struct Property<'a> {
    datapath: &'a Datapath,
    outcomes: RefCell<BTreeMap<&'static str, usize>>,
    arp_of_pod: Cell<usize>,
}

impl<'a> Property<'a> {
    pub fn new(datapath: &'a Datapath) -> Property<'a> {
        Property { datapath, outcomes: RefCell::default(), arp_of_pod: Cell::new(0) }
    }

    /// Runs a frame at a hook.
    ///
    /// # Errors
    /// What does not hold, with the frame as a line for the corpus.
    pub fn check(
        &self,
        (program, ifindex): Hook,
        frame: &[u8],
        gso_size: u32,
    ) -> Result<(), String> {
        let run = match self.datapath.try_run(program, frame, ifindex, gso_size) {
            Ok(run) => run,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && frame.len() < min_len(frame) => {
                self.count("too short to run");
                return Ok(());
            }
            Err(e) => return Err(format!("{program}: {e}\n{}", corpus_line(frame))),
        };
        let labels = run.labels();
        let violated = |what: &str| {
            let (action, line) = (run.action, corpus_line(frame));
            let out = hex::encode(&run.data);
            format!("{what}: {program}, gso {gso_size}: {action:?} {labels:?}\nout: {out}\n{line}")
        };
        let once = Counter { packets: 1, bytes: frame.len() as u64 };
        if run.counters.values().any(|counter| *counter != once) {
            return Err(violated("counted more or less than once"));
        }
        let Some(outcome) = outcome(&run, &labels) else {
            return Err(violated("action and counters are not one outcome"));
        };
        let is_from_pod = program == program::FROM_POD;
        if is_from_pod && DELIVERED.contains(&outcome) && !is_from_client(frame) {
            return Err(violated("a pod sends from another address"));
        }
        if outcome == "to_pod" {
            if !has_valid_lengths(&run.data) {
                return Err(violated("wrong lengths reach a pod"));
            }
            if Packet::read(frame).is_ok()
                && let Err(e) = Packet::read(&run.data)
            {
                return Err(violated(&e));
            }
        }
        if is_from_pod && outcome == "passed" && frame[12..14] == [8, 6] {
            self.arp_of_pod.update(|n| n + 1);
        }
        self.count(outcome);
        Ok(())
    }

    fn count(&self, outcome: &'static str) {
        *self.outcomes.borrow_mut().entry(outcome).or_default() += 1;
    }

    /// Asserts that each of these outcomes occurred, and that an ARP message of the pod passed.
    #[track_caller]
    pub fn assert_occurred(&self, outcomes: &[&str]) {
        let counts = self.outcomes.borrow();
        println!("{counts:?}");
        for outcome in outcomes {
            assert!(counts.contains_key(outcome), "no frame was {outcome}: {counts:?}");
        }
        assert!(self.arp_of_pod.get() > 0, "no ARP message of the pod passed");
    }
}

/// Bytes that `BPF_PROG_TEST_RUN` requires of a frame: those of the Ethernet and the IP header.
fn min_len(frame: &[u8]) -> usize {
    if frame[12..14] == [0x86, 0xdd] { 14 + 40 } else { 14 + 20 }
}

fn corpus_line(frame: &[u8]) -> String {
    format!("a line for tests/packet/corpus:\n{}", hex::encode(frame))
}

/// The label of the outcome that action and counters have in common, if there is one.
fn outcome(run: &Run, labels: &[&'static str]) -> Option<&'static str> {
    let outcomes = [Outcome::ToPod, Outcome::ToUplink, Outcome::ToStack].map(Outcome::label);
    let finals: Vec<&'static str> =
        labels.iter().copied().filter(|label| outcomes.contains(label)).collect();
    let reasons: Vec<&'static str> = DropReason::ALL
        .iter()
        .map(|reason| reason.label())
        .filter(|label| labels.contains(label))
        .collect();
    let rejected = labels.contains(&Outcome::Rejected.label());
    let is_untouched = labels.is_empty() && run.data == run.frame;
    let (outcome, valid) = match (run.action, &finals[..], &reasons[..]) {
        (Action::Drop, [], [reason]) => (*reason, !rejected),
        (Action::Redirect, [], [_]) => ("rejected", rejected),
        (Action::Redirect, [outcome], []) => (*outcome, *outcome != "to_stack" && !rejected),
        (Action::Next, ["to_stack"], []) => ("to_stack", !rejected),
        (Action::Redirect, [], []) => ("requeued", is_untouched),
        (Action::Next, [], []) => ("passed", is_untouched),
        _ => return None,
    };
    valid.then_some(outcome)
}

/// Whether the lengths in the IPv4 header fit the frame.
fn has_valid_lengths(frame: &[u8]) -> bool {
    let header = usize::from(frame[14] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    frame[14] >> 4 == 4
        && header >= 20
        && (total == 0 || header <= total)
        && 14 + total <= frame.len()
}

/// Whether a frame is IPv4 from CLIENT's addresses, or ARP about them: a probe for its own address has no
/// sender's (RFC 5227).
fn is_from_client(frame: &[u8]) -> bool {
    let mac = pod_mac(CLIENT);
    let is_own = match frame[12..14] {
        [8, 0] => frame[26..30] == CLIENT,
        [8, 6] => {
            let (sender, target) = (&frame[28..32], &frame[38..42]);
            frame[22..28] == mac && (sender == CLIENT || (sender == [0; 4] && target == CLIENT))
        }
        _ => false,
    };
    is_own && frame[6..12] == mac
}
