//! kill -9 of ADD and DEL at instants spread over their whole run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netns_tests::{Call, Node, Sandbox};

use crate::{devices, leases, node, nothing_is_left};

/// Instants per verb.
const INSTANTS: u32 = 60;

/// Starts a call and kills it when `after` is over; whether it was still running.
fn kill_after(node: &Node, verb: &str, sandbox: &Sandbox, after: Duration) -> bool {
    let call = Call::for_sandbox(verb, &node.config(), sandbox);
    let start = Instant::now();
    let mut child = call.spawn(&node.spaces);
    while start.elapsed() < after {
        std::hint::spin_loop();
    }
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// How long an ADD takes: the median of a few.
fn duration_of_add(node: &Node) -> Duration {
    let mut times = [(); 5].map(|()| {
        let sandbox = node.sandbox("default/timed");
        let took = node.cni("ADD", &sandbox).took;
        node.cni("DEL", &sandbox).ok();
        took
    });
    times.sort();
    times[2]
}

#[test]
fn an_add_that_was_killed_is_undone_by_del() {
    let (_world, node) = node();
    let whole = duration_of_add(&node);
    let mut killed = 0;
    for instant in 0..INSTANTS {
        let sandbox = node.sandbox("default/web");
        killed += u32::from(kill_after(&node, "ADD", &sandbox, whole * instant / INSTANTS));
        node.cni("DEL", &sandbox).ok();
        nothing_is_left(&node);
        assert_eq!(devices(&sandbox.spaces), ["lo"]);
        node.drop_sandbox(&sandbox.path);
    }
    assert!(killed > INSTANTS / 8, "only {killed} of {INSTANTS} were killed in time");
}

#[test]
fn an_add_that_was_killed_can_be_repeated() {
    let (_world, node) = node();
    let whole = duration_of_add(&node);
    let mut addresses = BTreeSet::new();
    let mut repeated = 0;
    for instant in 0..INSTANTS {
        let sandbox = node.sandbox("default/web");
        if !kill_after(&node, "ADD", &sandbox, whole * instant / INSTANTS) {
            // It was quicker than the kill.
            node.cni("DEL", &sandbox).ok();
            continue;
        }
        let outcome = node.cni("ADD", &sandbox);
        if outcome.code != Some(0) {
            // It was killed between its last step and its answer: the interface is whole.
            outcome.error(100, &["exists"]);
            node.cni("DEL", &sandbox).ok();
            continue;
        }
        repeated += 1;
        let pod = node.wired(&sandbox, outcome.ok());
        assert!(addresses.insert(pod.address), "{} is given twice", pod.address);
    }
    assert!(repeated > INSTANTS / 8, "only {repeated} of {INSTANTS}");
    let leased: BTreeSet<String> = leases(&node).into_iter().map(|(_, address)| address).collect();
    let given: BTreeSet<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(leased, given);
}

#[test]
fn a_del_that_was_killed_is_finished_by_the_next() {
    let (_world, node) = node();
    let whole = duration_of_add(&node);
    for instant in 0..INSTANTS {
        let pod = node.pod("default/web");
        kill_after(&node, "DEL", &pod.sandbox, whole * instant / INSTANTS);
        node.cni("DEL", &pod.sandbox).ok();
        nothing_is_left(&node);
        node.drop_sandbox(&pod.sandbox.path);
    }
}
