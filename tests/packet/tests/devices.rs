//! Several uplinks: the source of masqueraded flows, the MTU of each route, senders per device,
//! devices without an Ethernet header.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::topology::{
    HOST_MAC, LOW_MTU_HOST, NEW_HOST, OTHER_HOST, OTHER_NODE_MAC, SECOND_HOST, SECOND_IFINDEX,
    SECOND_NODE, SECOND_ROUTER_MAC,
};
use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, Outcome, PolicyPorts, program, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn from_second(datapath: &Datapath, packet: &Packet) -> Run {
    let frame = packet.frame(HOST_MAC, SECOND_ROUTER_MAC);
    datapath.run(program::FROM_NETDEV, &frame, SECOND_IFINDEX)
}

#[test]
fn flow_is_masqueraded_with_the_address_of_the_device_that_it_leaves_by() {
    let datapath = Datapath::node();
    for (host, address, ifindex) in
        [(EXTERNAL, NODE, UPLINK_IFINDEX), (SECOND_HOST, SECOND_NODE, SECOND_IFINDEX)]
    {
        let syn = Packet::tcp((CLIENT, PORT), (host, 80), SYN, b"");
        let sent = datapath.from_pod(CLIENT_IFINDEX, &syn).to_uplink(&[Outcome::Masqueraded]);
        assert_eq!((sent.src, sent.dst), (address, host));
        let reply = Packet::tcp((host, 80), (sent.src, sent.sport()), SYN | ACK, b"");
        let mac = if ifindex == SECOND_IFINDEX { SECOND_ROUTER_MAC } else { topology::ROUTER_MAC };
        let frame = reply.frame(HOST_MAC, mac);
        let run = datapath.run(program::FROM_NETDEV, &frame, ifindex);
        let got = run.to_pod(&[Outcome::Restored]);
        assert_eq!((got.src, got.dst, got.dport()), (host, CLIENT, PORT));
        // The next packet of the flow has the same address and port.
        let ack = Packet::tcp((CLIENT, PORT), (host, 80), ACK, b"");
        let again = datapath.from_pod(CLIENT_IFINDEX, &ack).to_uplink(&[Outcome::Masqueraded]);
        assert_eq!((again.src, again.sport()), (address, sent.sport()));
    }
}

#[test]
fn service_with_a_backend_behind_the_second_uplink_has_its_address_as_source() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SECOND_HOST, 8080)]);
    let both = [Outcome::Translated, Outcome::Masqueraded];
    let from_pod = Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &from_pod).to_uplink(&both);
    assert_eq!((sent.src, sent.dst), (SECOND_NODE, SECOND_HOST));
    let from_wire = Packet::tcp((EXTERNAL, PORT), (VIP, 80), SYN, b"");
    let sent = datapath.from_netdev(&from_wire).to_uplink(&both);
    assert_eq!((sent.src, sent.dst), (SECOND_NODE, SECOND_HOST));
    let reply = Packet::tcp((SECOND_HOST, 8080), (SECOND_NODE, sent.sport()), SYN | ACK, b"");
    let got = from_second(&datapath, &reply).to_uplink(&[Outcome::Restored]);
    assert_eq!((got.src, got.sport(), got.dst), (VIP, 80, EXTERNAL));
}

#[test]
fn flow_of_the_node_to_a_service_has_the_address_of_the_device_of_its_backend() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SECOND_HOST, 8080)]);
    datapath.service(8, (VIP, 81, proto::TCP), &[(FAR_POD, 8080)]);
    // The stack has chosen the source for the default route.
    let syn = Packet::tcp((NODE, PORT), (VIP, 80), SYN, b"");
    let both = [Outcome::Translated, Outcome::Masqueraded];
    let sent = datapath.to_netdev(&syn).to_uplink(&both);
    assert_eq!((sent.src, sent.dst), (SECOND_NODE, SECOND_HOST));
    let reply = Packet::tcp((SECOND_HOST, 8080), (SECOND_NODE, sent.sport()), SYN | ACK, b"");
    let got = from_second(&datapath, &reply).to_stack(&[Outcome::Restored]);
    assert_eq!((got.src, got.sport(), got.dst, got.dport()), (VIP, 80, NODE, PORT));
    // By the device of the source, it keeps it.
    let syn = Packet::tcp((NODE, PORT), (VIP, 81), SYN, b"");
    let sent = datapath.to_netdev(&syn).to_uplink(&[Outcome::Translated]);
    assert_eq!((sent.src, sent.sport()), (NODE, PORT));
}

#[test]
fn flow_by_a_device_without_programs_keeps_its_source_and_by_an_unknown_one_is_dropped() {
    let datapath = Datapath::node();
    let syn = Packet::tcp((CLIENT, PORT), (OTHER_HOST, 80), SYN, b"");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &syn).to_uplink(&[]);
    assert_eq!((sent.src, sent.sport()), (CLIENT, PORT));
    let syn = Packet::tcp((CLIENT, PORT), (NEW_HOST, 80), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &syn).dropped(DropReason::NotReady);
    // The flow of a repeated SYN begins when the agent has written the device.
    datapath.device(105, [192, 168, 11, 2], sluice_abi::device_flags::MANAGED);
    let sent = datapath.from_pod(CLIENT_IFINDEX, &syn).to_uplink(&[Outcome::Masqueraded]);
    assert_eq!(sent.src, [192, 168, 11, 2]);
}

#[test]
fn addresses_of_the_node_on_any_device_are_not_accepted_from_the_wire() {
    let datapath = Datapath::node();
    for source in [NODE, SECOND_NODE] {
        let packet = Packet::tcp((source, 1000), (SERVER, 8080), SYN, b"");
        from_second(&datapath, &packet).dropped(DropReason::Spoofed);
        datapath.from_netdev(&packet).dropped(DropReason::Spoofed);
    }
    assert!(datapath.flows().is_empty());
}

#[test]
fn sender_is_accepted_on_its_own_device_only() {
    let datapath = Datapath::node();
    let packet = Packet::tcp((FAR_POD, 1000), (SERVER, 8080), SYN, b"");
    let frame = packet.frame(HOST_MAC, OTHER_NODE_MAC);
    for _ in 0..3 {
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).to_pod(&[]);
        let run = datapath.run(program::FROM_NETDEV, &frame, SECOND_IFINDEX);
        run.dropped(DropReason::Spoofed);
    }
}

#[test]
fn pod_of_another_node_reaches_any_address_of_this_node_through_the_stack() {
    let datapath = Datapath::node();
    for destination in [NODE, SECOND_NODE] {
        let packet = Packet::tcp((FAR_POD, 1000), (destination, 10_250), SYN, b"");
        from_second(&datapath, &packet).passed();
    }
}

/// A packet with `len` bytes from the IP header, which must not be fragmented.
fn datagram(dst: ([u8; 4], u16), len: usize) -> Packet {
    let mut packet = Packet::udp((CLIENT, PORT), dst, &vec![7; len - 28]);
    packet.dont_fragment = true;
    packet
}

#[test]
fn length_is_compared_with_the_mtu_of_the_route() {
    let datapath = Datapath::node();
    for (host, mtu) in [(EXTERNAL, 1500), (SECOND_HOST, 1400), (LOW_MTU_HOST, 1300)] {
        let fits = datagram((host, 53), mtu);
        datapath.from_pod(CLIENT_IFINDEX, &fits).to_uplink(&[Outcome::Masqueraded]);
        // The stack answers with the MTU of the same route.
        let run = datapath.from_pod(CLIENT_IFINDEX, &datagram((host, 53), mtu + 1));
        assert_eq!(run.to_stack(&[]).dst, host);

        let segment = Packet::tcp((CLIENT, PORT), (host, 80), ACK, &[7; 3000]);
        let frame = segment.bytes_from_pod(CLIENT_IFINDEX);
        let gso = |size| datapath.run_gso(program::FROM_POD, &frame, CLIENT_IFINDEX, size);
        gso(mtu as u32 - 40).to_uplink(&[Outcome::Masqueraded]);
        gso(mtu as u32 - 39).to_stack(&[]);
    }
}

/// The MTU that an error tells, and the tuple that it quotes.
fn fragmentation_needed(error: &Packet) -> (u16, [u8; 4], [u8; 4]) {
    assert_eq!((error.proto, error.body[0], error.body[1]), (proto::ICMP, 3, 4));
    let address = |at: usize| <[u8; 4]>::try_from(&error.body[at..at + 4]).unwrap();
    (u16::from_be_bytes([error.body[6], error.body[7]]), address(20), address(24))
}

#[test]
fn packet_to_a_service_that_is_too_long_for_the_backends_route_is_answered() {
    let datapath = Datapath::node();
    for (service, backend, mtu) in [(7, SECOND_HOST, 1400), (8, LOW_MTU_HOST, 1300)] {
        let vip = (VIP, 80 + service as u16);
        datapath.service(service, (vip.0, vip.1, proto::UDP), &[(backend, 53)]);
        datapath.service(service + 10, (vip.0, vip.1 + 100, proto::TCP), &[(backend, 80)]);
        let both = [Outcome::Translated, Outcome::Masqueraded];
        datapath.from_pod(CLIENT_IFINDEX, &datagram(vip, mtu)).to_uplink(&both);
        let run = datapath.from_pod(CLIENT_IFINDEX, &datagram(vip, mtu + 1));
        let error = run.rejected(DropReason::TooLong);
        assert_eq!((error.src, error.dst), (VIP, CLIENT));
        assert_eq!(fragmentation_needed(&error), (mtu as u16, CLIENT, VIP));

        // Without the flag, the stack fragments it.
        let mut packet = datagram(vip, mtu + 1);
        packet.dont_fragment = false;
        assert_eq!(datapath.from_pod(CLIENT_IFINDEX, &packet).to_stack(&[]).dst, VIP);

        // A segment of a packet that the kernel segments. Its options count too.
        let to = (VIP, vip.1 + 100);
        let syn = Packet::tcp((CLIENT, PORT), to, SYN, b"");
        datapath.from_pod(CLIENT_IFINDEX, &syn).to_uplink(&both);
        let mut segment = Packet::tcp((CLIENT, PORT), to, ACK, b"");
        segment.dont_fragment = true;
        segment.body[12] = 8 << 4;
        segment.body.extend([1; 12]);
        segment.body.extend([7; 3000]);
        let frame = segment.bytes_from_pod(CLIENT_IFINDEX);
        let gso = |size| datapath.run_gso(program::FROM_POD, &frame, CLIENT_IFINDEX, size);
        gso(mtu as u32 - 52).to_uplink(&both);
        let error = gso(mtu as u32 - 51).rejected(DropReason::TooLong);
        assert_eq!(fragmentation_needed(&error), (mtu as u16, CLIENT, VIP));
    }
}

#[test]
fn reply_of_a_service_that_is_too_long_for_the_clients_route_is_answered() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let syn = Packet::tcp((LOW_MTU_HOST, PORT), (VIP, 80), SYN, b"");
    let both = [Outcome::Translated, Outcome::Masqueraded];
    let got = from_second(&datapath, &syn).to_pod(&both);
    let mut reply = Packet::tcp((SERVER, 8080), (got.src, got.sport()), ACK, &[7; 1261]);
    reply.dont_fragment = true;
    let error = datapath.from_pod(SERVER_IFINDEX, &reply).rejected(DropReason::TooLong);
    assert_eq!(error.dst, SERVER);
    assert_eq!(fragmentation_needed(&error), (1300, SERVER, got.src));
    reply.body.pop();
    let sent = datapath.from_pod(SERVER_IFINDEX, &reply).to_uplink(&[Outcome::Restored]);
    assert_eq!((sent.src, sent.dst), (VIP, LOW_MTU_HOST));
}

/// The stack forwards by other limits than the route lookup: what it sends has to be translated.
#[test]
fn packet_that_the_stack_forwards_beyond_the_mtu_of_the_route_is_masqueraded() {
    let datapath = Datapath::node();
    let to = (LOW_MTU_HOST, 53);
    let short = datagram(to, 100);
    let sent = datapath.from_pod(CLIENT_IFINDEX, &short).to_uplink(&[Outcome::Masqueraded]);
    let frame = datagram(to, 1301).bytes();
    let run = datapath.run(program::TO_NETDEV, &frame, SECOND_IFINDEX);
    let forwarded = run.to_stack(&[Outcome::Masqueraded]);
    assert_eq!((forwarded.src, forwarded.sport()), (sent.src, sent.sport()));
    assert_ne!(forwarded.src, CLIENT);
}

#[test]
fn a_device_without_an_ethernet_header_accepts_senders_by_their_route() {
    let datapath = Datapath::node();
    let device = Tunnel::create(&datapath);
    let packet = |source| Packet::tcp((source, PORT), (SERVER, 80), SYN, b"");
    let spoofed = [DropReason::Spoofed.label()];
    for source in [FAR_POD, CLIENT, NODE, GATEWAY, tunnel::ADDRESS] {
        device.receives(&packet(source), &spoofed);
    }
    assert!(datapath.flows().is_empty());
    for source in [tunnel::REMOTE_POD, EXTERNAL] {
        device.receives(&packet(source), &[Outcome::ToPod.label()]);
    }
    assert_eq!(datapath.flows().len(), 2);
    // A flow that is open by the device of the route.
    datapath.from_netdev(&packet(FAR_POD)).to_pod(&[]);
    device.receives(&packet(FAR_POD), &spoofed);
}

#[test]
fn policies_hold_on_a_device_without_an_ethernet_header() {
    const CLASS: u64 = 5;
    let datapath = Datapath::node();
    let device = Tunnel::create(&datapath);
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 80)]);
    datapath.network_class(EXTERNAL, 32, CLASS);
    let ingress = [DropReason::PolicyIngress.label()];
    let to_service = [Outcome::Translated.label(), Outcome::ToPod.label()];
    let direct = Packet::tcp((EXTERNAL, PORT), (SERVER, 80), SYN, b"");
    let forwarded = Packet::tcp((EXTERNAL, PORT + 1), (VIP, 80), SYN, b"");
    datapath.isolate(SERVER, Ingress, &[], PolicyPorts::NONE);
    device.receives(&direct, &ingress);
    device.sends(&forwarded, &ingress);
    let of_node = Packet::tcp((NODE, PORT), (VIP, 80), SYN, b"");
    device.sends(&of_node, &to_service);
    let web = PolicyPorts::range(proto::TCP, 80, 80);
    datapath.isolate(SERVER, Ingress, &[(CLASS, web)], PolicyPorts::NONE);
    device.receives(&direct, &[Outcome::ToPod.label()]);
    device.sends(&forwarded, &to_service);
    // What a pod has sent to the stack.
    let of_pod = Packet::tcp((CLIENT, PORT), (tunnel::REMOTE_HOST, 80), SYN, b"");
    datapath.isolate(CLIENT, Egress, &[], PolicyPorts::NONE);
    device.sends(&of_pod, &[DropReason::PolicyEgress.label()]);
    datapath.release(CLIENT, Egress);
    device.sends(&of_pod, &[Outcome::Masqueraded.label(), Outcome::ToUplink.label()]);
}
