//! SIGKILL of ADD and DEL: between any two of their steps, and at instants spread over their whole run. A
//! signal such as SIGTERM, which they do not handle, ends them in the same places.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netns_tests::cni::code;
use netns_tests::{CniCall, Node, Sandbox};
use serde_json::{Value, json};

use crate::{assert_no_pod, devices, leases, node, pod_devices_and_routes, with};

/// Fewer would mean that the steps are not found.
const FEWEST_STEPS: usize = 20;

/// Instants per verb.
const INSTANTS: u32 = 60;

/// Starts a call and kills it after a time; returns whether it was still running.
fn kill_after(node: &Node, verb: &str, sandbox: &Sandbox, after: Duration) -> bool {
    let call = CniCall::for_sandbox(verb, &node.config(), sandbox);
    let start = Instant::now();
    let call = call.spawn(&node.namespaces);
    while start.elapsed() < after {
        std::hint::spin_loop();
    }
    call.kill()
}

/// Duration of a call: the median of a few.
fn duration_of(node: &Node, verb: &str) -> Duration {
    let mut times = [(); 5].map(|()| {
        let sandbox = node.sandbox("default/timed");
        let add = node.cni("ADD", &sandbox);
        let del = node.cni("DEL", &sandbox);
        add.ok();
        del.ok();
        if verb == "ADD" { add.took } else { del.took }
    });
    times.sort();
    times[2]
}

#[test]
fn killed_add_is_undone_by_del() {
    let (_topology, node) = node();
    let whole = duration_of(&node, "ADD");
    let mut killed = 0;
    for instant in 0..INSTANTS {
        let sandbox = node.sandbox("default/web");
        killed += u32::from(kill_after(&node, "ADD", &sandbox, whole * instant / INSTANTS));
        node.cni("DEL", &sandbox).ok();
        assert_no_pod(&node);
        assert_eq!(devices(&sandbox.namespaces), ["lo"]);
        node.drop_sandbox(&sandbox.path);
    }
    assert!(killed > INSTANTS / 8, "only {killed} of {INSTANTS} were killed in time");
}

#[test]
fn killed_add_can_be_repeated() {
    let (_topology, node) = node();
    let whole = duration_of(&node, "ADD");
    let mut addresses = BTreeSet::new();
    let mut repeated = 0;
    for instant in 0..INSTANTS {
        let sandbox = node.sandbox("default/web");
        if !kill_after(&node, "ADD", &sandbox, whole * instant / INSTANTS) {
            // It ended before the kill.
            node.cni("DEL", &sandbox).ok();
            continue;
        }
        let output = node.cni("ADD", &sandbox);
        if output.code != Some(0) {
            // It was killed between its last step and its output: the interface is complete.
            output.error(code::INTERFACE_EXISTS, &["exists"]);
            node.cni("DEL", &sandbox).ok();
            continue;
        }
        repeated += 1;
        let pod = node.pod_of(&sandbox, output.ok());
        assert!(addresses.insert(pod.address), "{} was assigned twice", pod.address);
    }
    assert!(repeated > INSTANTS / 8, "only {repeated} of {INSTANTS}");
    let leased: BTreeSet<String> = leases(&node).into_iter().map(|(_, address)| address).collect();
    let assigned: BTreeSet<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(leased, assigned);
}

#[test]
fn killed_del_is_completed_by_the_next_del() {
    let (_topology, node) = node();
    let whole = duration_of(&node, "DEL");
    let mut killed = 0;
    for instant in 0..INSTANTS {
        let pod = node.pod("default/web");
        killed += u32::from(kill_after(&node, "DEL", &pod.sandbox, whole * instant / INSTANTS));
        node.cni("DEL", &pod.sandbox).ok();
        assert_no_pod(&node);
        node.drop_sandbox(&pod.sandbox.path);
    }
    assert!(killed > INSTANTS / 8, "only {killed} of {INSTANTS} were killed in time");
}

/// The configuration of a pod with a hostPort.
fn with_host_port(node: &Node) -> Value {
    let mappings = json!([{ "hostPort": 9080, "containerPort": 8080 }]);
    with(&node.config(), "runtimeConfig", json!({ "portMappings": mappings }))
}

/// Kills ADD before each of its steps in turn, and lets `clean` remove what is left.
#[track_caller]
fn kill_add_at_each_step(clean: impl Fn(&Node, &Sandbox)) {
    let (_topology, node) = node();
    let mut steps = 0;
    loop {
        let sandbox = node.sandbox("default/web");
        let add = CniCall::for_sandbox("ADD", &with_host_port(&node), &sandbox);
        let killed = add.kill_before(&node.namespaces, steps);
        clean(&node, &sandbox);
        assert_no_pod(&node);
        assert_eq!(devices(&sandbox.namespaces), ["lo"], "step {steps}");
        node.drop_sandbox(&sandbox.path);
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(steps >= FEWEST_STEPS, "{steps} steps");
}

#[test]
fn del_removes_what_an_add_left_that_was_killed_at_any_step() {
    kill_add_at_each_step(|node, sandbox| {
        node.cni("DEL", sandbox).ok();
    });
}

#[test]
fn next_add_replaces_what_an_add_left_that_was_killed_at_any_step() {
    let (replaced, complete) = (Cell::new(0), Cell::new(0));
    kill_add_at_each_step(|node, sandbox| {
        let (_, routes) = pod_devices_and_routes(node);
        let has_interface = devices(&sandbox.namespaces).contains(&"eth0".to_owned());
        let output = node.cni_with("ADD", &with_host_port(node), sandbox);
        if routes == 1 && has_interface {
            // It was killed after its last step but the output.
            output.error(code::INTERFACE_EXISTS, &["exists"]);
            complete.set(complete.get() + 1);
        } else {
            output.ok();
            assert_eq!(leases(node).len(), 1);
            replaced.set(replaced.get() + 1);
        }
        node.cni("DEL", sandbox).ok();
    });
    assert!(complete.get() < replaced.get() / 2, "{complete:?} complete, {replaced:?} replaced");
}

#[test]
fn gc_removes_what_an_add_left_that_was_killed_at_any_step() {
    kill_add_at_each_step(|node, _| {
        let empty = with(&node.config(), "cni.dev/valid-attachments", json!([]));
        node.cni_of_network("GC", &empty).ok();
    });
}

#[test]
fn next_del_completes_a_del_that_was_killed_at_any_step() {
    let (_topology, node) = node();
    let mut steps = 0;
    loop {
        let sandbox = node.sandbox("default/web");
        node.cni_with("ADD", &with_host_port(&node), &sandbox).ok();
        let del = CniCall::for_sandbox("DEL", &node.config(), &sandbox);
        let killed = del.kill_before(&node.namespaces, steps);
        node.cni("DEL", &sandbox).ok();
        assert_no_pod(&node);
        node.drop_sandbox(&sandbox.path);
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(steps >= FEWEST_STEPS / 2, "{steps} steps");
}
