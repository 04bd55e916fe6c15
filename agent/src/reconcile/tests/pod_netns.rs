//! Repair of `POD_NETNS`.

use std::time::Duration;

use sluice_abi::{Addr, PodNetns};
use sluice_core::table::{LocalPods, PodNetnsRows, Pods};
use sluice_pod::inventory::local_pod;

use super::{of_others, with_pods};
use crate::conditions::Concern;
use crate::event::Event;
use crate::harness;

/// Time until the next resync.
const RESYNC: Duration = Duration::from_secs(31);

fn pod(n: u8) -> PodNetns {
    PodNetns { addrs: [Addr::v4([10, 244, 1, n]), Addr::UNSPECIFIED] }
}

#[tokio::test(start_paused = true)]
async fn rows_of_network_namespaces_are_those_of_the_leases() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    for (lease, cookie) in harness.kernel().leases.iter_mut().zip([107, 108]) {
        lease.netns_cookie = Some(cookie);
    }
    assert_eq!(harness.send([Event::Leases]).await, ["put POD_NETNS 2"]);
    assert_eq!(harness.kernel().rows::<PodNetnsRows>(), [(107, pod(7)), (108, pod(8))]);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new(), "nothing differs");

    // Another program, and a DEL that was killed.
    harness.kernel().overwrite::<PodNetnsRows>(107, pod(99));
    harness.kernel().overwrite::<PodNetnsRows>(100, pod(7));
    let log = harness.run_for(RESYNC).await;
    assert_eq!(log, ["delete POD_NETNS 1", "put POD_NETNS 1"]);
    assert_eq!(harness.kernel().rows::<PodNetnsRows>(), [(107, pod(7)), (108, pod(8))]);
    assert_eq!(harness.state().repairs().get("pod_netns"), Some(&4));

    // A lease that does not record the cookie keeps its row.
    harness.kernel().leases[1].netns_cookie = None;
    harness.kernel().leases.remove(0);
    let log = harness.send([Event::Leases]).await;
    assert!(log.contains(&"delete POD_NETNS 1".to_owned()), "{log:?}");
    assert_eq!(harness.kernel().rows::<PodNetnsRows>(), [(108, pod(8))]);
}

/// All rows of a pod whose ADD has just ended were lost.
#[tokio::test(start_paused = true)]
async fn row_of_a_young_pod_follows_its_row_in_local_pods_at_once() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, link) = harness::pod(7);
    lease.since = harness.kernel().boot_instant.clone();
    lease.netns_cookie = Some(107);
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    let log = harness.send([Event::Leases]).await;
    assert!(log.contains(&"put LOCAL_PODS 1".to_owned()), "{log:?}");
    assert_eq!(harness.kernel().rows::<PodNetnsRows>(), [(107, pod(7))]);
}

/// The agent reads the rows, an ADD ends, the agent reads the leases.
#[tokio::test(start_paused = true)]
async fn rows_that_an_add_writes_after_they_were_read_need_no_lock() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, link) = harness::pod(7);
    lease.since = harness.kernel().boot_instant.clone();
    lease.netns_cookie = Some(107);
    let row = local_pod(&lease, &link);
    harness.kernel().pod_hooks.insert(link.index);
    harness.kernel().fail("lock leases", usize::MAX, libc::ETIMEDOUT);
    harness.kernel().after("read POD_NETNS", move |kernel| {
        kernel.overwrite::<Pods>(row.index.into(), row);
        kernel.overwrite::<LocalPods>(lease.address.into(), row);
        kernel.overwrite::<PodNetnsRows>(107, pod(7));
        kernel.leases.push(lease);
        kernel.host.links.push(link);
    });
    assert_eq!(of_others(harness.send([Event::Leases]).await), Vec::<String>::new());
    assert!(harness.condition(Concern::PodNetns).is_none());
    assert_eq!(harness.state().repairs().get("pod_netns"), None);
}
