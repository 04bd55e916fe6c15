//! ADD and DEL of one container at the same time.

use std::time::{Duration, Instant};

use netns_tests::CniCall;

use crate::{assert_no_pod, leases, node, pod_devices_and_routes};

/// Instants at which DEL starts, spread over the run of ADD.
const INSTANTS: u32 = 40;

#[test]
fn add_and_del_of_one_container_leave_a_pod_with_its_lease_or_nothing() {
    let (_topology, node) = node();
    let sandbox = node.sandbox("default/timed");
    let whole = node.cni("ADD", &sandbox).took;
    node.cni("DEL", &sandbox).ok();
    let (mut with_pod, mut without) = (0, 0);
    for instant in 0..INSTANTS {
        let sandbox = node.sandbox("default/web");
        let spawn =
            |verb| CniCall::for_sandbox(verb, &node.config(), &sandbox).spawn(&node.namespaces);
        let start = Instant::now();
        let add = spawn("ADD");
        wait_until(start, whole * instant / INSTANTS);
        let del = spawn("DEL").wait();
        let add = add.wait();
        del.ok();
        let (devices, routes) = pod_devices_and_routes(&node);
        let expected = usize::from(add.code == Some(0) && !devices.is_empty());
        assert_eq!((devices.len(), routes, leases(&node).len()), (expected, expected, expected));
        match expected {
            0 => without += 1,
            _ => with_pod += 1,
        }
        node.cni("DEL", &sandbox).ok();
        assert_no_pod(&node);
        node.drop_sandbox(&sandbox.path);
    }
    assert!(without > 0, "no DEL ran after its ADD ({with_pod} before)");
}

fn wait_until(start: Instant, after: Duration) {
    while start.elapsed() < after {
        std::hint::spin_loop();
    }
}
