//! Programs on several devices, and the rows of `DEVICES`.

use std::time::Duration;

use sluice_abi::{Addr, Device, device_flags};
use sluice_core::table::Devices;
use sluice_pod::device::{Link, LinkLayer};

use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, host, lists};
use crate::host::{LocalAddress, RouteUse};
use crate::kernel::fake::FakeKernel;

/// `eth1` (index 3) becomes a device with this address and a route to a network.
fn route_by_eth1(kernel: &mut FakeKernel) {
    kernel.host.addresses.push(LocalAddress {
        address: "203.0.113.5".parse().unwrap(),
        ifindex: 3,
        additional: false,
    });
    kernel.host.route_uses.insert(3, RouteUse { networks: true, addresses: false });
}

fn row(address: [u8; 4], flags: u32) -> Device {
    Device { addr: Addr::v4(address), flags, mac: [0; 6], pad: [0; 2] }
}

const MANAGED: u32 = device_flags::MANAGED;

#[tokio::test(start_paused = true)]
async fn device_gets_programs_before_its_row_and_loses_them_with_its_routes() {
    let mut harness = Harness::ready_with(vec![]).await;
    let eth0 = (2, row([172, 18, 0, 2], MANAGED));
    assert_eq!(harness.kernel().rows::<Devices>(), [eth0]);
    route_by_eth1(harness.kernel());
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(
        log,
        ["attach uplink 3", "enable forwarding eth1", "put NETWORKS 1", "put DEVICES 1"]
    );
    let rows = harness.kernel().rows::<Devices>();
    assert_eq!(rows[1], (3, row([203, 0, 113, 5], MANAGED)));
    assert_eq!(harness.state().uplink().unwrap().link.name, "eth0");

    harness.kernel().host.route_uses.remove(&3);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(log, ["detach uplink 3", "delete DEVICES 1"]);
    assert_eq!(harness.kernel().rows::<Devices>(), [eth0]);
    // A device that disappears.
    route_by_eth1(harness.kernel());
    harness.send([Event::HostNetwork]).await;
    harness.kernel().host.links.retain(|link| link.index != 3);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(log, ["detach uplink 3", "delete DEVICES 1"]);
}

#[tokio::test(start_paused = true)]
async fn failed_attachment_is_repeated_and_leaves_the_device_without_a_row() {
    let mut harness = Harness::ready_with(vec![]).await;
    route_by_eth1(harness.kernel());
    harness.kernel().fail("attach uplink 3", 1, libc::EBUSY);
    let log = harness.send([Event::HostNetwork]).await;
    // No new flow leaves by it: its replies would not be translated.
    assert_eq!(log, ["enable forwarding eth1", "put NETWORKS 1"]);
    assert_eq!(harness.kernel().rows::<Devices>().len(), 1);
    assert_eq!(harness.status(Concern::Devices).0, Status::Failed);
    let log = harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(log, ["attach uplink 3", "put DEVICES 1"]);
    assert!(harness.condition(Concern::Devices).is_none());
}

#[tokio::test(start_paused = true)]
async fn program_that_another_process_detached_is_a_repair() {
    let mut harness = Harness::ready_with(vec![]).await;
    route_by_eth1(harness.kernel());
    harness.send([Event::HostNetwork]).await;
    harness.kernel().uplinks.remove(&3);
    assert_eq!(harness.send([Event::Poll]).await, ["attach uplink 3"]);
    assert_eq!(harness.state().repairs()["uplink_programs"], 1);
}

#[tokio::test(start_paused = true)]
async fn programs_of_a_former_choice_are_detached_after_a_restart() {
    let mut kernel = FakeKernel::new(host());
    kernel.overwrite::<Devices>(3, row([203, 0, 113, 5], MANAGED));
    kernel.uplinks.insert(3);
    let mut harness = Harness::with(&["--devices=eth0"], kernel);
    route_by_eth1(harness.kernel());
    let log = harness.send(lists(vec![])).await;
    assert!(log.contains(&"detach uplink 3".to_owned()), "{log:?}");
    assert_eq!(harness.kernel().rows::<Devices>()[1], (3, row([203, 0, 113, 5], 0)));
}

#[tokio::test(start_paused = true)]
async fn device_without_an_ethernet_header_and_address_has_the_address_of_the_uplink() {
    let mut kernel = FakeKernel::new(host());
    let tunnel =
        Link { layer: LinkLayer::Ip, mac: None, mtu: 1420, ..crate::harness::link(9, "wg0") };
    kernel.host.links.push(tunnel);
    kernel.host.route_uses.insert(9, RouteUse { networks: false, addresses: true });
    let mut harness = Harness::with(&[], kernel);
    harness.send(lists(vec![])).await;
    let flags = MANAGED | device_flags::NO_ETHERNET;
    let want = row([172, 18, 0, 2], flags);
    assert!(harness.kernel().rows::<Devices>().contains(&(9, want)));
    assert!(harness.kernel().uplinks.contains(&9));
}
