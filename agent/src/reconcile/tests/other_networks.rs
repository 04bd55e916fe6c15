//! Conditions about other network software.

use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn other_network_software_is_reported_until_it_is_removed() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().other_networks = vec!["kube-proxy has rules".into(), "05-x precedes".into()];
    assert_eq!(harness.send([Event::Resync]).await, [] as [String; 0]);
    let (status, message) = harness.status(Concern::OtherNetworks);
    assert_eq!((status, message), (Status::Degraded, "kube-proxy has rules; 05-x precedes"));
    // The pods of this node keep working: a node with leftover rules stays ready.
    assert!(harness.state().ready());
    harness.kernel().other_networks = Vec::new();
    harness.send([Event::Resync]).await;
    assert!(harness.state().conditions.get(Concern::OtherNetworks).is_none());
}

#[tokio::test(start_paused = true)]
async fn configuration_that_appears_is_reported_at_once() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().other_networks = vec!["05-x precedes".into()];
    harness.send([Event::CniFiles]).await;
    assert_eq!(harness.status(Concern::OtherNetworks).0, Status::Degraded);
}
