//! Writes of `NODE_CONFIG`.

use sluice_abi::{Addr, NodeConfig, node_flags};
use sluice_core::table::NodeConfigs;

use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, host, lists, node};
use crate::host::HostState;
use crate::kernel::fake::{FakeKernel, RANDOM_KEY};
use crate::source_ports::SourcePorts;

async fn config(flags: &[&str]) -> NodeConfig {
    let mut harness = Harness::with(flags, FakeKernel::new(host()));
    harness.send(lists(vec![])).await;
    harness.kernel().rows::<NodeConfigs>()[0].1
}

#[tokio::test(start_paused = true)]
async fn every_field_has_its_source() {
    assert_eq!(
        config(&["--snat-ports=61001-61500", "--flows-per-pod=1000"]).await,
        NodeConfig {
            addrs: [Addr::v4([172, 18, 0, 2]), Addr::UNSPECIFIED],
            gateways: [Addr::v4([169, 254, 1, 1]), Addr::UNSPECIFIED],
            flags: node_flags::READY | node_flags::MASQUERADE,
            mtu: 1500,
            snat_key: RANDOM_KEY,
            snat_ports: "61001-61500".parse::<SourcePorts>().unwrap().without((1, 1)),
            netns_cookie: 4711,
            flows_per_pod: 1000,
            flows_without_pod: sluice_abi::map::FLOWS_MAX / 2,
        }
    );
    assert_eq!(config(&["--masquerade=false"]).await.flags, node_flags::READY);
}

#[tokio::test(start_paused = true)]
async fn config_waits_for_the_uplink() {
    let unknown = HostState { default_route: None, ..host() };
    let mut harness = Harness::with(&[], FakeKernel::new(unknown));
    harness.run_until_idle().await;
    for concern in [Concern::HostState, Concern::NodeConfig, Concern::Devices] {
        assert_eq!(harness.status(concern).0, Status::Waiting);
    }
    assert_eq!(harness.kernel().rows::<NodeConfigs>(), []);
    // The InternalIP of the Node selects the device.
    harness.apply(node("n1", "172.18.0.2", "10.244.1.0/24")).await;
    assert_eq!(harness.kernel().rows::<NodeConfigs>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn node_without_uplink_is_reported() {
    let unknown = HostState { default_route: None, addresses: vec![], ..host() };
    let mut harness = Harness::with(&[], FakeKernel::new(unknown));
    harness.send(lists(vec![])).await;
    let (status, message) = harness.status(Concern::HostState);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("set --uplink"), "{message}");
    assert!(!harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn lost_address_of_the_uplink_is_kept_and_reported() {
    let mut harness = Harness::ready_with(vec![]).await;
    let config = harness.kernel().rows::<NodeConfigs>();
    let addresses = std::mem::take(&mut harness.kernel().host.addresses);
    harness.kernel().host.default_route = Some(2);
    let changed = harness.send([Event::HostNetwork]).await;
    assert!(!changed.contains(&"put NODE_CONFIG 1".to_owned()), "{changed:?}");
    assert_eq!(harness.kernel().rows::<NodeConfigs>(), config);
    let (status, message) = harness.status(Concern::NodeConfig);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("eth0 has no IPv4 address") && message.contains("172.18.0.2"));
    // A restart keeps it too.
    let mut harness = harness.restart();
    harness.send(lists(vec![])).await;
    assert_eq!(harness.kernel().rows::<NodeConfigs>(), config);
    harness.kernel().host.addresses = addresses;
    harness.send([Event::HostNetwork]).await;
    assert!(harness.condition(Concern::NodeConfig).is_none());
}

#[tokio::test(start_paused = true)]
async fn secret_of_source_ports_is_kept() {
    let mut harness = Harness::with(&[], FakeKernel::new(host()));
    harness.send(lists(vec![])).await;
    let (_, config) = harness.kernel().rows::<NodeConfigs>()[0];
    let other = NodeConfig { snat_key: [8, 9], flows_per_pod: 5, ..config };
    harness.kernel().overwrite::<NodeConfigs>(0, other);
    harness.kernel().host.ephemeral_ports = (32_768, 61_999);
    harness.send([Event::HostNetwork]).await;
    let (_, repaired) = harness.kernel().rows::<NodeConfigs>()[0];
    assert_eq!((repaired.snat_key, repaired.flows_per_pod), ([8, 9], config.flows_per_pod));
    assert_eq!(repaired.snat_ports[1].first, 62_000);
}

#[tokio::test(start_paused = true)]
async fn bits_of_a_migration_are_kept() {
    let mut harness = Harness::ready_with(vec![]).await;
    let (_, config) = harness.kernel().rows::<NodeConfigs>()[0];
    let flags = config.flags | node_flags::LOOK_BACK | node_flags::HANDED_OVER;
    harness.kernel().overwrite::<NodeConfigs>(0, NodeConfig { flags, mtu: 1, ..config });
    harness.kernel().host.ephemeral_ports = (32_768, 61_999);
    harness.send([Event::HostNetwork]).await;
    let (_, repaired) = harness.kernel().rows::<NodeConfigs>()[0];
    assert_eq!((repaired.flags, repaired.mtu), (flags, config.mtu));
}

#[tokio::test(start_paused = true)]
async fn source_ports_exclude_the_ephemeral_ports_and_none_is_reported() {
    let node = HostState { ephemeral_ports: (1024, 65_535), ..host() };
    let mut harness = Harness::with(&[], FakeKernel::new(node));
    harness.send(lists(vec![])).await;
    let (status, message) = harness.status(Concern::NodeConfig);
    assert_eq!(status, Status::Degraded);
    let words = "ip_local_port_range is 1024-65535";
    assert!(message.contains(words), "{message}");
    let findings = harness.findings();
    assert!(findings[0].starts_with("n1 NoSnatPort: ") && findings[0].contains(words));
    assert_eq!(findings.len(), 1);
    // Pods are connected, and everything else works.
    assert!(harness.state().ready() && harness.kernel().cni_config.is_some());
    assert_eq!(
        harness.kernel().rows::<NodeConfigs>()[0].1.flags & node_flags::READY,
        node_flags::READY
    );
    harness.kernel().host.ephemeral_ports = (40_000, 65_535);
    harness.send([Event::HostNetwork]).await;
    assert!(harness.condition(Concern::NodeConfig).is_none());
    let (_, config) = harness.kernel().rows::<NodeConfigs>()[0];
    let ranges = config.snat_ports.map(|range| (range.first, range.last));
    assert_eq!(ranges, [(1024, 29_999), (32_768, 39_999), (0, 0), (0, 0)]);
}
