//! Start, restart and end of the agent.

use std::net::IpAddr;
use std::time::Duration;

use sluice_abi::{BackendRow, network_kind};
use sluice_core::Change;
use sluice_core::model::{Kind, Object};
use sluice_core::table::{Backends, Frontends, Networks};

use super::{only, position, ready_flag};
use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, delete, host, lists, node, pod, web};
use crate::kernel::Hop;
use crate::kernel::fake::FakeKernel;

#[tokio::test(start_paused = true)]
async fn first_start_performs_each_operation_once_and_in_order() {
    let mut harness = Harness::new();
    let mut log = harness.run_until_idle().await;
    let objects = [
        web(&["10.244.2.7", "10.244.2.8"]),
        vec![node("n1", "172.18.0.2", "10.244.1.0/24"), node("n2", "172.18.0.3", "10.244.2.0/24")],
    ];
    log.extend(harness.send(lists(objects.concat())).await);
    assert_eq!(
        log,
        [
            "attach sockets",
            "install CNI binary",
            "attach uplink 2",
            "enable forwarding eth0",
            "put NETWORKS 4",
            "put BACKENDS 2",
            "put SLOTS 2",
            "put SERVICES 1",
            "put FRONTENDS 2",
            "put route 10.244.1.0/24 unreachable",
            "put route 10.244.2.0/24 via 172.18.0.3",
            "put DEVICES 1",
            "put NODE_CONFIG 1",
            "write CNI config",
        ]
    );
    assert_eq!(harness.state().conditions.iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn contract_1_6_maps_and_routes_are_not_touched_before_every_list_has_arrived() {
    let mut kernel = FakeKernel::new(host());
    kernel.overwrite::<Backends>(7, BackendRow::default());
    kernel.routes.insert("10.244.9.0/24".parse().unwrap(), Hop::Unreachable);
    let mut harness = Harness::with(&[], kernel);
    let mut all = lists(web(&["10.244.2.7"]));
    let last = all.remove(2);
    assert!(matches!(last, Event::Objects(Change::Replace(Kind::EndpointSlice, _))));
    let mut log = harness.send(all).await;
    log.extend(harness.run_for(Duration::from_secs(600)).await);
    for label in ["put FRONTENDS", "put NETWORKS", "delete", "put route", "write CNI"] {
        assert_eq!(only(&log, label), Vec::<&str>::new(), "{log:?}");
    }
    assert!(!ready_flag(&mut harness));
    assert_eq!(harness.status(Concern::ServiceMaps).0, Status::Waiting);
    let log = harness.send([last]).await;
    assert_eq!(only(&log, "delete"), ["delete BACKENDS 1", "delete route 10.244.9.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn ready_flag_follows_the_maps_and_precedes_the_cni_config() {
    let mut harness = Harness::new();
    harness.run_until_idle().await;
    assert!(!ready_flag(&mut harness));
    harness.kernel().fail("put FRONTENDS", 1, libc::ENOSPC);
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    assert!(!ready_flag(&mut harness));
    assert_eq!(only(&log, "write CNI"), Vec::<&str>::new());
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert!(ready_flag(&mut harness));
    let config = position(&log, "put NODE_CONFIG");
    assert!(position(&log, "put FRONTENDS") < config);
    assert!(config < position(&log, "write CNI config"));
}

#[tokio::test(start_paused = true)]
async fn failed_attachment_to_the_uplink_defers_the_cni_config() {
    let mut harness = Harness::new();
    harness.kernel().fail("attach uplink", 1, libc::EPERM);
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    assert_eq!(only(&log, "put FRONTENDS"), ["put FRONTENDS 2"]);
    assert_eq!(only(&log, "write CNI"), Vec::<&str>::new());
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["attach uplink 2", "put DEVICES 1", "write CNI config"]);
}

#[tokio::test(start_paused = true)]
async fn restart_without_changes_performs_no_operation() {
    let objects = [
        web(&["10.244.2.7", "10.244.2.8"]),
        vec![node("n1", "172.18.0.2", "10.244.1.0/24"), node("n2", "172.18.0.3", "10.244.2.0/24")],
    ]
    .concat();
    let mut harness = Harness::ready_with(objects.clone()).await;
    let frontends = harness.kernel().rows::<Frontends>();
    assert_eq!(frontends.len(), 2);
    let mut harness = harness.restart();
    let mut log = harness.run_until_idle().await;
    log.extend(harness.send(lists(objects)).await);
    log.extend(harness.run_for(Duration::from_secs(900)).await);
    assert_eq!(log, Vec::<String>::new());
    assert_eq!(harness.kernel().rows::<Frontends>(), frontends);
    assert!(harness.state().ready());
}

/// The default route, which selects the uplink where no InternalIP does, leads to another device.
#[tokio::test(start_paused = true)]
async fn restart_changes_nothing_before_the_node_object_is_known() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    let config = harness.kernel().maps["NODE_CONFIG"].clone();
    harness.kernel().host.default_route = Some(3);
    harness.kernel().host.links[2].mtu = 1300;
    let mut harness = harness.restart();
    let other = node("n2", "172.18.0.3", "10.244.2.0/24");
    let mut log = harness.run_for(Duration::from_secs(40)).await;
    log.extend(harness.apply(other).await);
    log.extend(harness.run_for(Duration::from_secs(40)).await);
    assert_eq!(log, Vec::<String>::new());
    assert_eq!(harness.kernel().maps["NODE_CONFIG"], config);
    assert_eq!(harness.status(Concern::HostState).0, Status::Waiting);
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    assert_eq!(log, Vec::<String>::new());
    assert!(harness.state().ready());
}

/// Programs of an earlier agent are attached, with other maps.
#[tokio::test(start_paused = true)]
async fn programs_take_over_from_another_version_after_their_tables_are_written() {
    let mut kernel = FakeKernel::new(host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.host.links.push(link);
    let mut harness = Harness::with(&[], kernel);
    harness.take_over_later();
    let mut log = harness.run_for(Duration::from_secs(40)).await;
    log.extend(harness.apply(node("n1", "172.18.0.2", "10.244.1.0/24")).await);
    assert_eq!(only(&log, "attach"), Vec::<&str>::new());
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    let written = position(&log, "put FRONTENDS");
    let switched = position(&log, "hand over");
    assert!(switched > written, "{log:?}");
    for label in ["attach uplink 2", "attach sockets", "attach pod 107", "install CNI binary"] {
        assert!(position(&log, label) > switched, "{label} in {log:?}");
    }
    assert!(harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn ready_flag_stays_set_while_a_restarted_agent_waits() {
    let harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    let mut harness = harness.restart();
    assert_eq!(harness.run_for(Duration::from_secs(5)).await, Vec::<String>::new());
    assert!(ready_flag(&mut harness) && !harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn failed_read_at_start_does_not_end_the_agent() {
    let mut harness = Harness::new();
    harness.kernel().fail("read FRONTENDS", 3, libc::EIO);
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    assert_eq!(only(&log, "put FRONTENDS"), Vec::<&str>::new());
    harness.run_for(Duration::from_secs(5)).await;
    assert!(harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_loop_and_changes_nothing() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    let maps = harness.kernel().maps.clone();
    harness.queue([delete(Kind::Service, "shop/web"), Event::Stop]);
    assert!(harness.ends().await);
    assert_eq!(harness.kernel().take_log(), Vec::<String>::new());
    assert_eq!(harness.kernel().maps, maps);
}

#[tokio::test(start_paused = true)]
async fn contract_1_9_external_ips_can_be_switched_off() {
    let mut objects = web(&["10.244.2.7"]);
    let Some(Object::Service(service)) = objects.first_mut() else { panic!("no Service") };
    let external = service.external.get_or_insert_default();
    external.ips = ["198.51.100.7".parse().unwrap()].into();
    external.load_balancer_ips = ["198.51.100.8".parse().unwrap()].into();
    let changed = objects[0].clone();
    for (flags, served) in [(&[][..], [true, true]), (&["--external-ips=false"], [false, true])] {
        let mut harness = Harness::with(flags, FakeKernel::new(host()));
        // In a list, and as a change.
        for changes in
            [lists(objects.clone()), vec![Event::Objects(Change::Apply(changed.clone()))]]
        {
            harness.send(changes).await;
            let rows = harness.kernel().rows::<Frontends>();
            let found = ["198.51.100.7", "198.51.100.8"].map(|ip| {
                let addr = ip.parse::<IpAddr>().unwrap().into();
                rows.iter().any(|(key, _)| key.addr == addr && key.port.get() == 80)
            });
            assert_eq!(found, served, "{flags:?}");
            let ignored = "198.51.100.7".parse::<IpAddr>().unwrap().into();
            let any = rows.iter().any(|(key, _)| key.addr == ignored);
            assert_eq!(any, served[0], "row for all ports, {flags:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_node_ports_reach_the_networks() {
    let kinds = |harness: &mut Harness| -> Vec<u32> {
        let rows = harness.kernel().rows::<Networks>();
        rows.into_iter().map(|(_, network)| network.kind).collect()
    };
    for (flags, without) in [
        (&[][..], 0),
        // The loopback addresses.
        (&["--nodeport-addresses=primary"], 1),
        (&["--nodeport-addresses=192.168.0.0/16"], 2),
    ] {
        let mut harness = Harness::with(flags, FakeKernel::new(host()));
        harness.send(lists(web(&["10.244.2.7"]))).await;
        let kinds = kinds(&mut harness);
        let found = |kind| kinds.iter().filter(|k| **k == kind).count();
        assert_eq!(found(network_kind::THIS_NODE_WITHOUT_NODE_PORTS), without, "{flags:?}");
        assert_eq!(found(network_kind::THIS_NODE), usize::from(without < 2), "{flags:?}");
    }
}
