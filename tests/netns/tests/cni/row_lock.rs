//! Rows of pods are written and removed under the lock of the leases. Without it, a DEL could delete the row that
//! an ADD wrote after the DEL had looked it up, and an ADD that outlives its lease could write
//! over the rows of the next pod.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::cni::{RunningCall, code};
use netns_tests::{CniCall, Node, Sandbox, dataplane, eventually, scaled};
use serde_json::{Value, json};
use sluice_abi::{Addr, LocalPod, map};
use sluice_pod::lease::{BootInstant, Entry, LockedStore, Store};

use crate::{
    assert_no_pod, host_ports, leases, node, pod_devices_and_routes, pods_by_index, read_leases,
    with,
};

const STATE: &str = "/run/sluice/cni";

/// Attempts at taking the lock before an ADD takes it the second time.
const ATTEMPTS: u32 = 20;

fn with_host_port(node: &Node) -> Value {
    let mappings = json!([{ "hostPort": 9080, "containerPort": 8080 }]);
    with(&node.config(), "runtimeConfig", json!({ "portMappings": mappings }))
}

fn lock<'a>(node: &Node, store: &'a Store) -> LockedStore<'a> {
    node.namespaces.run(|| store.lock("test").unwrap())
}

/// Takes the lock when a sandbox has its lease and the node is `ready`, and waits until its ADD waits for the
/// lock. `None` if the ADD ended before or needed no lock.
fn second_lock<'a>(
    node: &Node,
    store: &'a Store,
    sandbox: &Sandbox,
    ready: impl Fn(&Node) -> bool,
) -> Option<LockedStore<'a>> {
    let start = Instant::now();
    let locked = loop {
        let locked = lock(node, store);
        if leases(node).iter().any(|(id, _)| *id == sandbox.id) && ready(node) {
            break locked;
        }
        drop(locked);
        if start.elapsed() > scaled(Duration::from_secs(5)) {
            return None;
        }
        // The lock is not fair.
        thread::sleep(Duration::from_micros(100));
    };
    let waits = eventually("ADD waits for the lock, or ends", || {
        let (_, routes) = pod_devices_and_routes(node);
        match (is_awaited(node), routes) {
            (true, _) => Ok(true),
            // The route is what ADD creates last.
            (false, 1) => Ok(false),
            (false, _) => Err("neither".to_owned()),
        }
    });
    waits.then_some(locked)
}

/// Whether a process waits for the lock: a line `2: -> FLOCK ADVISORY WRITE <pid> <device>:<inode> ...`.
fn is_awaited(node: &Node) -> bool {
    let inode = node.namespaces.run(|| fs::metadata(format!("{STATE}/lock")).unwrap());
    let (major, minor) = (nix::sys::stat::major(inode.dev()), nix::sys::stat::minor(inode.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", inode.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut waiting = locks.lines().filter(|line| line.contains("->"));
    waiting.any(|line| line.split_whitespace().any(|word| word == file))
}

/// Starts ADDs until one waits for the lock after it has its lease.
fn add_that_waits<'a>(
    node: &Node,
    store: &'a Store,
    what: &str,
    ready: impl Fn(&Node) -> bool,
) -> (Sandbox, RunningCall, LockedStore<'a>) {
    for _ in 0..ATTEMPTS {
        let sandbox = node.sandbox("default/web");
        let add = CniCall::for_sandbox("ADD", &with_host_port(node), &sandbox);
        let add = add.spawn(&node.namespaces);
        if let Some(locked) = second_lock(node, store, &sandbox, &ready) {
            return (sandbox, add, locked);
        }
        add.wait();
        node.cni("DEL", &sandbox).ok();
    }
    panic!("{what} without the lock");
}

#[test]
fn rows_of_a_pod_are_written_under_the_lock() {
    let (_topology, node) = node();
    let store = Store::new(STATE);
    let (sandbox, add, locked) = add_that_waits(&node, &store, "rows are written", |_| true);
    assert_eq!(host_ports(&node), [], "written without the lock");
    assert_eq!((dataplane::local_pods(&node), pods_by_index(&node)), (0, vec![]));
    drop(locked);
    let pod = node.pod_of(&sandbox, add.wait().ok());
    let rows: Vec<Addr> = host_ports(&node).iter().map(|(_, backend)| backend.addr).collect();
    assert_eq!(rows, [Addr::from(pod.address)]);
    node.cni("DEL", &sandbox).ok();
    assert_no_pod(&node);
}

/// Address and index belong to another pod by then.
#[test]
fn add_whose_lease_was_released_leaves_the_rows_of_the_next_pod_alone() {
    let (_topology, node) = node();
    let store = Store::new(STATE);
    let (_sandbox, add, locked) = add_that_waits(&node, &store, "rows are written", |_| true);
    let lease = read_leases(&node).remove(0);
    let (address, index) = (Addr::from(lease.address), lease.index as u16);
    let generation = lease.row_generation() ^ 1;
    let next = LocalPod { index, generation, ifindex: 1, ..LocalPod::default() };
    let now = BootInstant::now().unwrap();
    node.namespaces.run(|| {
        locked.release([&Entry::of(&lease)], &now).unwrap();
        dataplane::open(map::LOCAL_PODS).update(&address, &next).unwrap();
        dataplane::open(map::PODS).update(&lease.index, &next).unwrap();
    });
    drop(locked);
    add.wait().error(code::TRY_AGAIN_LATER, &["default/web", "released"]);
    assert_eq!(dataplane::local_pod(&node, lease.address), Some(next));
    assert_eq!(pods_by_index(&node), [(lease.index, next)]);
    assert_eq!((host_ports(&node), leases(&node)), (vec![], vec![]));
    assert_eq!(pod_devices_and_routes(&node), (vec![], 0));
}

#[test]
fn rows_of_a_failed_add_are_removed_under_the_lock() {
    let (_topology, node) = node();
    // ADD writes the row of the index, and fails at that of the address.
    dataplane::freeze(&node, map::LOCAL_PODS);
    let store = Store::new(STATE);
    let failed = |node: &Node| pods_by_index(node).len() == 1;
    let (_sandbox, add, locked) = add_that_waits(&node, &store, "a failed ADD is undone", failed);
    assert_eq!(pod_devices_and_routes(&node), (vec![], 0));
    assert_eq!(pods_by_index(&node).len(), 1, "removed without the lock");
    drop(locked);
    add.wait().error(code::IO_FAILURE, &["default/web", map::LOCAL_PODS]);
    assert_no_pod(&node);
}
