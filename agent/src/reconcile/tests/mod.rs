//! Each reconciler on a node in memory.

mod cni_files;
mod devices;
mod health_check_ports;
mod host_ports;
mod leases;
mod node_config;
mod other_networks;
mod pod_mtu;
mod pod_netns;
mod pods;
mod policy;
mod schedule;
mod stale_pins;
mod stale_sockets;
mod xdp;

use sluice_abi::node_flags;
use sluice_core::table::NodeConfigs;

use crate::harness::{Harness, host, lists, pod};
use crate::kernel::fake::FakeKernel;

/// The agent, ready, on a node with the pods 10.244.1.`n`, which CNI ADD has connected but for
/// programs and rows.
async fn with_pods(numbers: &[u8]) -> (Harness, Vec<String>) {
    let mut kernel = FakeKernel::new(host());
    for (lease, link) in numbers.iter().map(|n| pod(*n)) {
        kernel.leases.push(lease);
        kernel.host.links.push(link);
    }
    let mut harness = Harness::with(&[], kernel);
    let log = harness.send(lists(vec![])).await;
    assert!(harness.state().ready());
    (harness, log)
}

/// Operations that do not concern policies.
fn of_others(mut log: Vec<String>) -> Vec<String> {
    log.retain(|l| !["POLICY", "OPEN_NAMESPACES"].iter().any(|map| l.contains(map)));
    log
}

fn ready_flag(harness: &mut Harness) -> bool {
    let rows = harness.kernel().rows::<NodeConfigs>();
    rows.first().is_some_and(|(_, config)| config.flags & node_flags::READY != 0)
}
