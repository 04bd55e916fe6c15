//! Which leases of a full range are dead, and that no row leads to their addresses once they are free.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use netns_tests::cni::code;
use netns_tests::{CniOutput, Node, Sandbox, dataplane, eventually_equals, ip};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use sluice_abi::{Addr, LocalPod, PodNetns, map};
use sluice_pod::lease::{BootInstant, Entry, Lease};
use sluice_pod::netns;

use crate::{
    LEASES, assert_no_pod, host_ports, leases, node, pod_devices_and_routes, pods_by_index,
    read_leases, small_range, with,
};

/// Longer than any ADD runs.
const OLD: u64 = 200;
/// Longer than the reuse delay of an address.
const REUSED: u64 = 11;

/// Shown as /proc/uptime to the node's processes.
const UPTIME: &str = "/run/uptime";

/// A clock that stands still, of which the node's processes read the time since the boot.
struct Clock<'a> {
    node: &'a Node,
    seconds: u64,
}

impl Clock<'_> {
    fn of(node: &Node) -> Clock<'_> {
        let seconds = BootInstant::now().unwrap().seconds;
        let clock = Clock { node, seconds };
        clock.write();
        node.namespaces.run(|| {
            let (file, none) = (Some(UPTIME), None::<&str>);
            mount(file, "/proc/uptime", none, MsFlags::MS_BIND, none).unwrap();
        });
        clock
    }

    fn advance(&mut self, seconds: u64) {
        self.seconds += seconds;
        self.write();
    }

    fn write(&self) {
        let text = format!("{}.00 0.00\n", self.seconds);
        self.node.namespaces.run(|| fs::write(UPTIME, &text).unwrap());
    }
}

/// ADD of a pod with a hostPort in a range of five addresses.
fn add(node: &Node, sandbox: &Sandbox, host_port: u16) -> CniOutput {
    let mapping = json!([{ "hostPort": host_port, "containerPort": 80 }]);
    let runtime = json!({ "portMappings": mapping });
    node.cni_with("ADD", &with(&small_range(node), "runtimeConfig", runtime), sandbox)
}

/// Five pods with the hostPorts from 9000 fill the range.
fn fill(node: &Node) -> Vec<Sandbox> {
    let pods: Vec<_> = (0..5).map(|n| node.sandbox(&format!("default/web-{n}"))).collect();
    for (pod, port) in pods.iter().zip(9000..) {
        add(node, pod, port).ok();
    }
    pods
}

fn lease_of(node: &Node, sandbox: &Sandbox) -> Lease {
    let mut leases = read_leases(node);
    leases.retain(|lease| lease.key.container_id == sandbox.id);
    leases.pop().unwrap()
}

/// Waits until the node has so many devices of pods. A list that is read during a removal may be
/// incomplete: two lists have to agree.
fn wait_for_devices(node: &Node, count: usize) {
    let devices = || pod_devices_and_routes(node).0.len();
    eventually_equals("devices of pods", (count, count), || (devices(), devices()));
}

/// A pod deletes its interface, or another program the host's end; its processes still use the address.
#[test]
fn lease_of_a_pod_without_a_device_is_kept_while_its_network_namespace_exists() {
    let (_topology, node) = node();
    let mut clock = Clock::of(&node);
    let mut pods = fill(&node);
    let replaced = pods.pop().unwrap();
    let removed = pods.pop().unwrap();
    let [complete, without_eth0, without_host_end]: [Sandbox; 3] = pods.try_into().unwrap();
    ip(&without_eth0.namespaces, "link del eth0");
    let host_end = lease_of(&node, &without_host_end).host_ifname;
    ip(&node.namespaces, &format!("link del {host_end}"));
    let free: BTreeSet<Ipv4Addr> =
        [&removed, &replaced].map(|pod| lease_of(&node, pod).address).into();
    node.drop_sandbox(&removed.path);
    node.drop_sandbox(&replaced.path);
    let path = replaced.path.clone();
    // The namespaces end with the last reference.
    drop((removed, replaced));
    let _other = node.namespaces.sandbox(&path);
    wait_for_devices(&node, 1);
    clock.advance(OLD);

    let late = node.sandbox("default/late");
    add(&node, &late, 9010).error(code::TRY_AGAIN_LATER, &["default/late"]);
    let ids = || leases(&node).into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>();
    let kept = [&complete, &without_eth0, &without_host_end].map(|pod| pod.id.clone());
    assert_eq!(ids(), BTreeSet::from(kept));
    clock.advance(REUSED);
    add(&node, &late, 9010).ok();
    assert!(free.contains(&lease_of(&node, &late).address));

    // Such a lease ends with its namespace.
    let next = node.sandbox("default/next");
    add(&node, &next, 9011).ok();
    let last = node.sandbox("default/last");
    add(&node, &last, 9012).error(code::RANGE_EXHAUSTED, &["default/last", "all 5"]);
    node.drop_sandbox(&without_eth0.path);
    add(&node, &last, 9012).error(code::TRY_AGAIN_LATER, &["default/last"]);
    let kept = [complete, without_host_end, late, next].map(|pod| pod.id);
    assert_eq!(ids(), BTreeSet::from(kept));
}

#[test]
fn network_namespace_is_the_one_with_the_cookie_of_the_lease() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let lease = lease_of(&node, &pod.sandbox);
    let exists = |path: &Path, cookie| node.namespaces.run(|| netns::exists(path, cookie));
    let path = &pod.sandbox.path;
    let cookie = lease.netns_cookie.expect("Linux 5.14 and later have it");
    assert_eq!(Path::new(&lease.netns), path);
    assert!(exists(path, Some(cookie)) && exists(path, None));
    assert!(!exists(path, Some(cookie + 1)), "the namespace of another sandbox");
    // In the agent's image, /var/run is not a link to /run.
    let below_var = Path::new("/var").join(path.strip_prefix("/").unwrap());
    assert!(exists(&below_var, Some(cookie)));
    node.drop_sandbox(path);
    assert!(!exists(path, Some(cookie)) && !exists(path, None));
    // What a runtime leaves that was killed between unmount and deletion.
    node.namespaces.run(|| fs::write(path, "").unwrap());
    assert!(!exists(path, Some(cookie)) && !exists(path, None));
}

/// A row that stays would lead a hostPort to the next pod with the address.
#[test]
fn rows_of_dead_leases_are_removed_with_them() {
    let (_topology, node) = node();
    let mut clock = Clock::of(&node);
    let mut pods = fill(&node);
    let kept = pods.pop().unwrap();
    // Of a damaged lease, only address and index are known.
    let damaged = Entry::of(&lease_of(&node, &pods[0])).file_name();
    node.namespaces.run(|| fs::write(Path::new(LEASES).join(damaged), "{").unwrap());
    // One row of the two tables is already missing.
    dataplane::delete_local_pod(&node, lease_of(&node, &pods[1]).address);
    for pod in pods {
        node.drop_sandbox(&pod.path);
    }
    wait_for_devices(&node, 1);
    clock.advance(OLD);
    let late = node.sandbox("default/late");
    add(&node, &late, 9010).error(code::TRY_AGAIN_LATER, &["default/late"]);

    let lease = lease_of(&node, &kept);
    assert_eq!(read_leases(&node), std::slice::from_ref(&lease));
    let address = Addr::from(lease.address);
    let rows: Vec<Addr> = host_ports(&node).iter().map(|(_, pod)| pod.addr).collect();
    assert_eq!(rows, [address], "HOST_PORTS");
    let rows = dataplane::entries::<Addr, LocalPod>(&node, map::LOCAL_PODS);
    assert_eq!(rows.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [address]);
    let rows = dataplane::entries::<u64, PodNetns>(&node, map::POD_NETNS);
    assert_eq!(rows.iter().map(|(_, pod)| pod.addrs[0]).collect::<Vec<_>>(), [address]);
    let indices: Vec<u32> = pods_by_index(&node).iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [lease.index], "PODS");
    node.cni("DEL", &kept).ok();
    assert_no_pod(&node);
}

/// The lease stays with its rows: its address would lead to another pod.
#[test]
fn dead_lease_whose_rows_cannot_be_removed_is_kept() {
    let (_topology, node) = node();
    let mut clock = Clock::of(&node);
    let mut pods = fill(&node);
    let _kept = pods.pop().unwrap();
    for pod in pods {
        node.drop_sandbox(&pod.path);
    }
    wait_for_devices(&node, 1);
    clock.advance(OLD);
    dataplane::freeze(&node, map::HOST_PORTS);
    let late = node.sandbox("default/late");
    let output = add(&node, &late, 9010);
    output.error(code::RANGE_EXHAUSTED, &["default/late", "all 5"]);
    assert!(output.stderr.contains("not released"), "not reported: {:?}", output.stderr);
    assert_eq!((leases(&node).len(), host_ports(&node).len()), (5, 5));
}
