//! The cases of `cases/`, one test each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeSet;

macro_rules! cases {
    ($($test:ident = $name:literal,)*) => {
        const NAMES: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                cluster_tests::case::run($name);
            }
        )*
    };
}

cases! {
    cluster_policies = "cluster-policies",
    flow_connected_udp = "flow-connected-udp",
    flow_large_bodies = "flow-large-bodies",
    flow_open_tcp = "flow-open-tcp",
    host_port = "host-port",
    node_to_pods = "node-to-pods",
    pod_addresses = "pod-addresses",
    pod_ping = "pod-ping",
    pod_to_outside = "pod-to-outside",
    policy_clients_outside = "policy-clients-outside",
    policy_event = "policy-event",
    policy_outside = "policy-outside",
    policy_tiers = "policy-tiers",
    service_api_server = "service-api-server",
    service_conflict_event = "service-conflict-event",
    service_dns = "service-dns",
    service_hairpin = "service-hairpin",
    service_headless = "service-headless",
    service_host_network = "service-host-network",
    service_internal_local = "service-internal-local",
    service_manual_slices = "service-manual-slices",
    service_no_endpoints = "service-no-endpoints",
    service_node_port = "service-node-port",
    service_outside = "service-outside",
    service_ports = "service-ports",
    service_scaling = "service-scaling",
    service_shared_pods = "service-shared-pods",
    service_spread = "service-spread",
    service_unknown_port = "service-unknown-port",
}

#[test]
fn every_folder_is_listed() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).unwrap();
    let folders: BTreeSet<String> =
        folders.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, NAMES.iter().map(|n| (*n).to_owned()).collect());
}
