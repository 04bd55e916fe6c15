//! Installation of the CNI binary and the CNI configuration.

use std::time::Duration;

use sluice_core::model::{Kind, Node, Object};

use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, delete, host, lists, node, web};
use crate::kernel::fake::FakeKernel;

#[tokio::test(start_paused = true)]
async fn binary_is_installed_at_once_and_the_config_when_pods_can_be_connected() {
    let mut harness = Harness::new();
    assert!(harness.run_until_idle().await.contains(&"install CNI binary".to_owned()));
    assert_eq!(harness.status(Concern::CniFiles).0, Status::Waiting);
    let log = harness.send(lists(vec![])).await;
    assert_eq!(log.last().unwrap(), "write CNI config");
    assert!(harness.kernel().cni_config.as_deref().unwrap().contains("10.244.1.0/24"));
}

#[tokio::test(start_paused = true)]
async fn node_without_pod_cidr_is_reported_until_it_has_one() {
    let without = Object::Node(Node { name: "n1".into(), ..Node::default() });
    let mut harness = Harness::new();
    harness.send(lists(vec![without])).await;
    let (status, message) = harness.status(Concern::CniFiles);
    assert_eq!(status, Status::Degraded);
    assert!(message.starts_with("Node n1: this Node has no IPv4 podCIDR"), "{message}");
    let log = harness.apply(node("n1", "172.18.0.2", "10.244.1.0/24")).await;
    assert_eq!(log.last().unwrap(), "write CNI config");
    assert!(harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn missing_node_is_reported() {
    let mut harness = Harness::new();
    harness.send(lists(vec![node("n2", "172.18.0.3", "10.244.2.0/24")])).await;
    let (_, message) = harness.status(Concern::CniFiles);
    assert_eq!(message, "Node n1: the API has no Node of this name");
    assert!(!harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn config_stays_when_the_node_object_is_deleted() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.send([delete(Kind::Node, "n1")]).await;
    assert_eq!(harness.status(Concern::CniFiles).0, Status::Degraded);
    assert!(harness.state().ready() && harness.kernel().cni_config.is_some());
}

#[tokio::test(start_paused = true)]
async fn removed_files_are_installed_again() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().cni_binary = false;
    harness.kernel().cni_config = None;
    let log = harness.send([Event::CniFiles]).await;
    assert_eq!(log, ["install CNI binary", "write CNI config"]);
}

/// What makes pods unsafe or unreachable.
#[tokio::test(start_paused = true)]
async fn config_is_not_written_while_a_part_of_the_dataplane_is_missing() {
    for operation in
        ["attach uplink", "attach sockets", "put FRONTENDS", "put NODE_CONFIG", "read POD_POLICY"]
    {
        let mut kernel = FakeKernel::new(host());
        kernel.fail(operation, 1, libc::EIO);
        let mut harness = Harness::with(&[], kernel);
        harness.send(lists(web(&["10.244.2.7"]))).await;
        let config = harness.kernel().cni_config.clone();
        assert!(!harness.state().ready() && config.is_none(), "{operation}");
        harness.run_for(Duration::from_secs(1)).await;
        assert!(harness.state().ready(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn config_is_not_written_without_the_binary() {
    let mut kernel = FakeKernel::new(host());
    kernel.fail("install CNI binary", 2, libc::ENOSPC);
    let mut harness = Harness::with(&[], kernel);
    let log = harness.send(lists(vec![])).await;
    assert!(!log.contains(&"write CNI config".to_owned()), "{log:?}");
    assert!(harness.status(Concern::CniFiles).1.starts_with("install CNI binary: "));
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert_eq!(log, ["install CNI binary", "write CNI config"]);
}
