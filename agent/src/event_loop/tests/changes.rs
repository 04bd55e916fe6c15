//! Changes of objects and of the node.

use std::time::Duration;

use sluice_abi::{BackendRow, Frontend};
use sluice_core::Change;
use sluice_core::diff::Capacity;
use sluice_core::model::{Kind, Object, Protocol, ServiceCidr};
use sluice_core::table::{Backends, Frontends, Networks, NodeConfigs, Slots};

use super::only;
use crate::conditions::{Concern, Status};
use crate::event::{Event, PodScope};
use crate::harness::{Harness, delete, lists, node, service, slice, web};
use crate::kernel::fake::FakeKernel;
use crate::state::Cause;

#[tokio::test(start_paused = true)]
async fn burst_of_events_is_one_reconcile() {
    let mut harness = Harness::ready_with(vec![]).await;
    let events = (0..200u8).flat_map(|n| {
        let name = format!("s{n}");
        let service = service(&name, Protocol::Tcp, &format!("10.96.1.{n}"), 1);
        [service, slice(&name, Protocol::Tcp, &["10.244.2.7"])]
    });
    let events: Vec<Event> = events.map(|o| Event::Objects(Change::Apply(o))).collect();
    let log = harness.send(events).await;
    assert_eq!(log, ["put BACKENDS 200", "put SLOTS 200", "put SERVICES 200", "put FRONTENDS 400"]);
}

#[tokio::test(start_paused = true)]
async fn row_changed_by_another_program_is_repaired_by_the_comparison() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    let (id, backend) = harness.kernel().rows::<Backends>()[0];
    harness.kernel().overwrite::<Backends>(id, BackendRow { proto: 99, ..backend });
    let log = harness.run_for(Duration::from_secs(299)).await;
    assert_eq!(log, Vec::<String>::new());
    let log = harness.run_for(Duration::from_secs(2)).await;
    assert!(!only(&log, "put SERVICES").is_empty(), "{log:?}");
    let rows = harness.kernel().rows::<Backends>();
    assert!(rows.iter().any(|(_, row)| *row == backend), "{rows:?}");
}

/// Two rows of each Service, so that the maps are compared in several parts.
fn many_services() -> Vec<Object> {
    let of = |n: i64| {
        let (name, ip) =
            (format!("s{n}"), format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256));
        [service(&name, Protocol::Tcp, &ip, n), slice(&name, Protocol::Tcp, &["10.244.2.7"])]
    };
    (1..=3000).flat_map(of).collect()
}

/// Long enough for the first comparison to start and to end.
const COMPARISON: Duration = Duration::from_secs(310);

#[tokio::test(start_paused = true)]
async fn maps_are_compared_in_parts_also_while_rows_exceed_a_capacity() {
    let capacity = Capacity { frontends: 5000, ..Capacity::default() };
    let mut harness = Harness::with_capacity(capacity, capacity);
    harness.send(lists(many_services())).await;
    assert_eq!(harness.status(Concern::Capacity).0, Status::Degraded);
    let (key, row) = *harness.kernel().rows::<Frontends>().last().unwrap();
    harness.kernel().overwrite::<Frontends>(key, Frontend { flags: 99, ..row });
    harness.run_for(COMPARISON).await;
    let kernel = harness.kernel();
    assert!(kernel.most_compared > 0 && kernel.most_compared <= 2048, "{}", kernel.most_compared);
    let found = kernel.rows::<Frontends>().into_iter().find(|(k, _)| *k == key);
    assert_eq!(harness.state().repairs().get("map_rows"), Some(&1));
    assert_eq!(found, Some((key, row)));
}

#[tokio::test(start_paused = true)]
async fn missing_rows_further_rows_and_changed_slots_are_found_by_the_comparison() {
    type Damage = fn(&mut FakeKernel);
    let damages: [Damage; 4] = [
        |kernel| drop(kernel.maps.get_mut("FRONTENDS").unwrap().pop_first()),
        |kernel| drop(kernel.maps.get_mut("NETWORKS").unwrap().pop_last()),
        |kernel| kernel.overwrite::<Backends>(77_777, BackendRow::default()),
        |kernel| {
            let (slot, _) = kernel.rows::<Slots>()[0];
            kernel.overwrite::<Slots>(slot, 77_777);
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
        // A slot in use has the same id in every range that a repair may choose.
        let before = (harness.kernel().rows::<Networks>(), harness.kernel().rows::<Backends>());
        damage(harness.kernel());
        harness.run_for(COMPARISON).await;
        assert_eq!(harness.state().repairs().get("map_rows"), Some(&1), "damage {n}");
        let networks = harness.kernel().rows::<Networks>();
        assert_eq!(networks, before.0, "damage {n}");
        assert!(harness.kernel().rows::<Backends>().iter().all(|(_, b)| *b == before.1[0].1));
        assert_eq!(harness.kernel().rows::<Frontends>().len(), 2, "damage {n}");
        let log = harness.run_for(COMPARISON).await;
        assert_eq!(log, Vec::<String>::new(), "damage {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn routes_configuration_and_files_removed_by_another_program_are_restored() {
    let mut harness = Harness::ready_with(vec![]).await;
    let kernel = harness.kernel();
    kernel.routes.clear();
    kernel.cni_config = None;
    kernel.maps.remove("NODE_CONFIG");
    let log = harness.run_for(Duration::from_secs(31)).await;
    assert_eq!(
        log,
        ["put route 10.244.1.0/24 unreachable", "put NODE_CONFIG 1", "write CNI config"]
    );
}

/// The kernel does not notify of these.
#[tokio::test(start_paused = true)]
async fn removed_pins_and_programs_are_restored_within_a_second() {
    let mut harness = Harness::ready_with(vec![]).await;
    let kernel = harness.kernel();
    kernel.pins = false;
    kernel.uplinks.clear();
    kernel.socket_programs = false;
    let log = harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(log, ["restore pins", "attach uplink 2", "attach sockets"]);
    let repairs = harness.state().repairs();
    let counted = ["pins", "uplink_programs", "socket_programs"].map(|kind| repairs[kind]);
    assert_eq!(counted, [3, 1, 8]);
}

#[tokio::test(start_paused = true)]
async fn node_is_not_ready_while_pins_are_missing() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().pins = false;
    harness.kernel().fail("restore pins", 2, libc::EPERM);
    harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(harness.status(Concern::Pins).0, Status::Failed);
    assert!(!harness.state().ready());
    harness.run_for(Duration::from_secs(1)).await;
    assert!(harness.condition(Concern::Pins).is_none() && harness.state().ready());
}

#[tokio::test(start_paused = true)]
async fn forwarding_disabled_by_another_program_is_enabled_at_once() {
    let mut harness = Harness::ready_with(vec![]).await;
    assert!(harness.state().repairs().is_empty());
    for event in [Event::Forwarding, of_device(2)] {
        harness.kernel().forwarding.clear();
        assert_eq!(harness.send([event]).await, ["enable forwarding eth0"]);
    }
    assert_eq!(harness.state().repairs()["forwarding"], 2);
}

/// A notification about a device.
fn of_device(index: u32) -> Event {
    Event::PodNetwork(PodScope { devices: [index].into(), ..PodScope::default() })
}

#[tokio::test(start_paused = true)]
async fn filter_removed_from_the_uplink_is_restored_at_once() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().uplinks.clear();
    assert_eq!(harness.send([of_device(3)]).await, Vec::<String>::new());
    assert_eq!(harness.send([of_device(2)]).await, ["attach uplink 2"]);
}

#[tokio::test(start_paused = true)]
async fn failed_detachment_from_a_former_uplink_is_repeated() {
    let mut harness = Harness::ready_with(vec![]).await;
    let host = &mut harness.kernel().host;
    host.addresses[0].ifindex = 3;
    host.route_uses.clear();
    harness.kernel().fail("detach uplink 2", 1, libc::EBUSY);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(only(&log, "detach"), Vec::<&str>::new());
    assert_eq!(harness.status(Concern::Devices).0, Status::Failed);
    let log = harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(log, ["detach uplink 2"]);
    assert!(harness.condition(Concern::Devices).is_none());
}

#[tokio::test(start_paused = true)]
async fn services_beyond_a_capacity_are_reported_and_programmed_when_space_is_free() {
    let capacity = Capacity { frontends: 4, ..Capacity::default() };
    let mut harness = Harness::with_capacity(capacity, capacity);
    let of = |n: i64| {
        let (name, ip) = (format!("s{n}"), format!("10.96.0.{n}"));
        vec![service(&name, Protocol::Tcp, &ip, n), slice(&name, Protocol::Tcp, &["10.244.2.7"])]
    };
    harness.send(lists([of(1), of(2), of(3)].concat())).await;
    let (status, message) = harness.status(Concern::Capacity);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("shop/s3") && !message.contains("shop/s1"), "{message}");
    assert!(harness.state().ready());
    assert_eq!(harness.kernel().rows::<Frontends>().len(), 4);
    let log = harness.send([delete(Kind::Service, "shop/s1")]).await;
    assert_eq!(only(&log, "put FRONTENDS"), ["put FRONTENDS 2"]);
    assert!(harness.condition(Concern::Capacity).is_none());
}

/// A program that runs while the maps are written may hold the slots that were freed.
#[tokio::test(start_paused = true)]
async fn freed_slots_are_not_reused_in_the_same_pass() {
    let capacity = Capacity { slots: 6, ..Capacity::default() };
    let mut harness = Harness::with_capacity(capacity, capacity);
    let four = ["10.244.2.1", "10.244.2.2", "10.244.2.3", "10.244.2.4"];
    harness.send(lists(web(&four))).await;
    let other = ["10.244.3.1", "10.244.3.2", "10.244.3.3", "10.244.3.4"];
    let events = [
        delete(Kind::EndpointSlice, "shop/web"),
        Event::Objects(Change::Apply(slice("web", Protocol::Tcp, &other))),
    ];
    let log = harness.send(events).await;
    assert_eq!(only(&log, "put SLOTS"), Vec::<&str>::new());
    assert_eq!(harness.status(Concern::Capacity).0, Status::Degraded);
    // The frontend is deleted with its Service, and its slots are quarantined.
    harness.send([delete(Kind::Service, "shop/web")]).await;
    let log = harness.apply(service("web", Protocol::Tcp, "10.96.0.1", 2)).await;
    assert_eq!(only(&log, "put SLOTS"), Vec::<&str>::new());
    let log = harness.run_for(Duration::from_secs(2)).await;
    assert_eq!(only(&log, "put SLOTS"), ["put SLOTS 4"]);
    assert!(harness.condition(Concern::Capacity).is_none());
}

#[tokio::test(start_paused = true)]
async fn services_with_the_same_address_and_port_are_reported_until_one_is_removed() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    let log = harness.apply(service("younger", Protocol::Tcp, "10.96.0.1", 5)).await;
    assert_eq!(log, Vec::<String>::new());
    let (status, message) = harness.status(Concern::Conflicts);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("used by Service shop/web"), "{message}");
    assert!(message.contains("not programmed: shop/younger"), "{message}");
    harness.send([delete(Kind::Service, "shop/younger")]).await;
    assert!(harness.condition(Concern::Conflicts).is_none());
}

/// A condition of bounded length, for any number of Services with one address.
#[tokio::test(start_paused = true)]
async fn many_conflicts_are_counted_and_a_few_named() {
    let mut objects = web(&[]);
    for n in 0..40 {
        objects.push(service(&format!("late-{n:02}"), Protocol::Tcp, "10.96.0.1", 5));
        let address = format!("10.96.1.{n}");
        objects.push(service(&format!("a-{n:02}"), Protocol::Tcp, &address, 1));
        objects.push(service(&format!("b-{n:02}"), Protocol::Tcp, &address, 2));
    }
    let mut harness = Harness::ready_with(objects).await;
    let message = harness.status(Concern::Conflicts).1.to_owned();
    assert!(message.contains("shop/late-04, and 35 more; "), "{message}");
    assert!(message.ends_with("not programmed: shop/b-08; and 31 more"), "{message}");
    // Changes of other objects leave it.
    let log = harness.apply(slice("web", Protocol::Tcp, &["10.244.2.7"])).await;
    assert!(!log.is_empty());
    assert_eq!(harness.status(Concern::Conflicts).1, message);
    harness.send([delete(Kind::Service, "shop/b-00")]).await;
    assert!(
        harness.status(Concern::Conflicts).1.ends_with("not programmed: shop/b-09; and 30 more")
    );
}

/// The metric of kube-proxy ends when the change is in the kernel, once per change.
#[tokio::test(start_paused = true)]
async fn causes_of_changes_are_reported_when_they_are_programmed() {
    let caused = |addresses: &[&str], at| {
        let mut object = slice("web", Protocol::Tcp, addresses);
        if let Object::EndpointSlice(slice) = &mut object {
            slice.trigger = Some(at);
        }
        object
    };
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    assert_eq!(harness.programmed(), []);
    harness.apply(caused(&["10.244.2.8"], 7)).await;
    assert_eq!(harness.programmed(), [Cause { at: 7, v6: false }]);
    harness.apply(caused(&["10.244.2.8"], 7)).await;
    assert_eq!(harness.programmed(), [], "the same object");
    harness.kernel().fail("put SLOTS", 1, libc::ENOMEM);
    harness.apply(caused(&["10.244.2.9"], 9)).await;
    assert_eq!(harness.programmed(), [], "the write failed");
    harness.run_for(Duration::from_secs(5)).await;
    assert_eq!(harness.programmed(), [Cause { at: 9, v6: false }]);
}

#[tokio::test(start_paused = true)]
async fn service_range_among_pods_is_reported() {
    let range = |range: &str| {
        let cidrs = [range.parse().unwrap()].into();
        Object::ServiceCidr(ServiceCidr { name: "more".into(), cidrs })
    };
    let mut harness = Harness::ready_with(vec![]).await;
    harness.apply(range("10.244.1.128/25")).await;
    let (status, message) = harness.status(Concern::Conflicts);
    assert_eq!(status, Status::Degraded);
    assert!(
        message.starts_with("Service range 10.244.1.128/25 overlaps the pod range"),
        "{message}"
    );
    assert!(harness.kernel().rows::<Networks>().iter().all(|(key, _)| key.prefix_len != 96 + 25));
    harness.apply(range("10.97.0.0/16")).await;
    assert!(harness.condition(Concern::Conflicts).is_none());
}

#[tokio::test(start_paused = true)]
async fn uplink_programs_move_to_another_device() {
    let mut harness = Harness::ready_with(vec![]).await;
    let host = &mut harness.kernel().host;
    host.addresses[0].ifindex = 3;
    host.default_route = Some(3);
    host.route_uses.clear();
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(
        log,
        [
            "attach uplink 3",
            "detach uplink 2",
            "enable forwarding eth1",
            "put DEVICES 1",
            "delete DEVICES 1"
        ]
    );
    assert_eq!(harness.state().uplink().unwrap().link.name, "eth1");
}

#[tokio::test(start_paused = true)]
async fn new_node_address_is_a_network_and_a_source_address() {
    let mut harness = Harness::ready_with(vec![]).await;
    let host = &mut harness.kernel().host;
    host.addresses[0].address = "172.18.0.77".parse().unwrap();
    let mut log = harness.send([Event::HostNetwork]).await;
    log.extend(harness.apply(node("n1", "172.18.0.77", "10.244.1.0/24")).await);
    assert_eq!(log, ["put NETWORKS 1", "delete NETWORKS 1", "put DEVICES 1", "put NODE_CONFIG 1"],);
    let (_, config) = harness.kernel().rows::<NodeConfigs>()[0];
    assert_eq!(std::net::IpAddr::from(config.addrs[0]).to_string(), "172.18.0.77");
}
