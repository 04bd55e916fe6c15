//! The XDP program of the devices.

use sluice_abi::device_flags;
use sluice_bpf::attach::{XdpAttachment, XdpMode};
use sluice_core::table::Devices;

use crate::conditions::Concern;
use crate::event::Event;
use crate::harness::{Harness, host, lists};
use crate::kernel::fake::FakeKernel;

const NATIVE: &str = "attach xdp 2 native";

/// A node whose uplink is `eth0` (index 2), ready; with what happened to XDP.
async fn node(flag: &str, kernel: FakeKernel) -> (Harness, Vec<String>) {
    let mut harness = Harness::with(&[flag], kernel);
    let mut log = harness.send(lists(vec![])).await;
    log.extend(harness.send([Event::Poll]).await);
    log.retain(|label| label.contains("xdp"));
    (harness, log)
}

fn flags(harness: &mut Harness) -> u32 {
    let rows = harness.kernel().rows::<Devices>();
    rows.iter().find(|(index, _)| *index == 2).unwrap().1.flags & device_flags::XDP
}

fn text(harness: &Harness) -> String {
    harness.state().xdp(2).unwrap().describe()
}

#[tokio::test(start_paused = true)]
async fn device_gets_xdp_in_the_mode_of_the_flag() {
    let (mut harness, log) = node("--xdp=auto", FakeKernel::new(host())).await;
    assert_eq!((log, flags(&mut harness)), (vec![NATIVE.to_owned()], device_flags::XDP_NATIVE));
    let (mut harness, log) = node("--xdp=generic", FakeKernel::new(host())).await;
    assert_eq!(log, ["attach xdp 2 generic"]);
    assert_eq!(flags(&mut harness), device_flags::XDP_GENERIC);
    let mut veth = FakeKernel::new(host());
    veth.host.links.iter_mut().for_each(|link| link.veth = true);
    let (mut harness, log) = node("--xdp=auto", veth).await;
    assert_eq!((log, flags(&mut harness)), (vec![], 0));
    assert!(text(&harness).starts_with("off (veth: "), "{}", text(&harness));
}

#[tokio::test(start_paused = true)]
async fn xdp_of_an_earlier_agent_is_detached_when_switched_off() {
    let mut kernel = FakeKernel::new(host());
    kernel.xdp.insert(2, XdpMode::Native);
    let (mut harness, log) = node("--xdp=off", kernel).await;
    assert_eq!((log, flags(&mut harness)), (vec!["detach xdp 2".to_owned()], 0));
    assert_eq!(text(&harness), "off (--xdp=off)");
}

#[tokio::test(start_paused = true)]
async fn xdp_that_another_process_detached_is_a_repair() {
    let (mut harness, _) = node("--xdp=auto", FakeKernel::new(host())).await;
    let before = harness.state().repairs().get("uplink_programs").copied().unwrap_or(0);
    harness.kernel().xdp.clear();
    assert_eq!(harness.send([Event::Poll]).await, [NATIVE]);
    assert_eq!(harness.state().repairs()["uplink_programs"], before + 1);
}

#[tokio::test(start_paused = true)]
async fn program_of_other_software_is_left_alone_until_it_is_gone() {
    let mut kernel = FakeKernel::new(host());
    kernel.xdp_answers.insert(2, XdpAttachment::Foreign(77));
    let (mut harness, log) = node("--xdp=auto", kernel).await;
    assert_eq!((log, flags(&mut harness)), (vec![], 0));
    assert!(text(&harness).contains("77"));
    assert!(harness.condition(Concern::Devices).is_none(), "tc serves the device");
    harness.kernel().xdp_answers.clear();
    assert_eq!(harness.send([Event::Poll]).await, [NATIVE, "put DEVICES 1"]);
}

#[tokio::test(start_paused = true)]
async fn driver_that_refuses_is_not_asked_again() {
    let mut kernel = FakeKernel::new(host());
    kernel.xdp_answers.insert(2, XdpAttachment::Refused("no queues".to_owned()));
    let (mut harness, _) = node("--xdp=auto", kernel).await;
    assert_eq!(text(&harness), "off (native refused: no queues)");
    harness.kernel().xdp_answers.clear();
    assert_eq!(harness.send([Event::Poll]).await, Vec::<String>::new());
    assert!(harness.condition(Concern::Devices).is_none(), "tc serves the device");
}
