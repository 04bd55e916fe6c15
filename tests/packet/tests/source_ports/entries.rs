//! The two entries of a flow whose source port others want: neither outlives the other in the tables that evict,
//! and what is left of an ended flow does not affect the next one with its port.

use packet_tests::*;
use sluice_abi::{
    DropReason, FlowKey, Frontend, NodeConfig, Outcome, PodFlows, frontend_flags, map, program,
    proto,
};

use super::{SERVICE, SYN, assert_half_are_main_entries, send};

const NODE_PORT: u16 = 30_080;

/// A backend outside the cluster, which clients on other hosts reach by a NodePort and pods directly: the source
/// ports of both are those of the node, and their flows are in different tables.
#[test]
fn searches_of_pods_and_from_the_wire_protect_both_entries_of_each_others_flows() {
    // Each CPU has free entries of its own.
    cpu::stay();
    let datapath = Datapath::node();
    let snat_ports = port_ranges(&[(1024, 29_999), (61_000, 65_535)]);
    datapath.node_config(&NodeConfig { snat_ports, ..node_config() });
    let sets = Sets { cluster: vec![SERVICE], ..Sets::default() };
    datapath.service_port(8, proto::TCP, &sets);
    let frontend = Frontend { service: 8, flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], NODE_PORT, proto::TCP), frontend);
    let (from_pod, from_netdev) =
        (datapath.fd(program::FROM_POD), datapath.fd(program::FROM_NETDEV));
    let tokens = datapath.map::<u32, PodFlows>(map::POD_FLOWS);
    let mut dropped = [0; 2];
    for n in 0..60_000u32 {
        if n % 8_000 == 0 {
            // They are refilled over time.
            tokens.update(&u32::from(CLIENT[3]), &PodFlows::default()).unwrap();
        }
        let syn = Packet::tcp((CLIENT, 1024 + n as u16), SERVICE, SYN, b"");
        let sent = send(from_pod, &syn.bytes_from_pod(CLIENT_IFINDEX), CLIENT_IFINDEX);
        dropped[0] += u32::from(sent.is_none());
        let [_, a, b, c] = n.to_be_bytes();
        let syn = Packet::tcp(([203, a, b, c], 4000), (NODE, NODE_PORT), SYN, b"");
        let sent = send(from_netdev, &syn.bytes_from_wire(), UPLINK_IFINDEX);
        dropped[1] += u32::from(sent.is_none());
    }
    let kept =
        [map::FLOWS_NEW_POD, map::FLOWS_NEW_WIRE].map(|table| datapath.flows_in(table).len());
    println!("dropped {dropped:?}, kept {kept:?}");
    assert_half_are_main_entries(kept[0], map::FLOWS_NEW_POD_MAX);
    assert_half_are_main_entries(kept[1], map::FLOWS_NEW_WIRE_MAX);
}

/// A client that uses one port for two Services with one backend and for the backend itself: all three flows have
/// the same tuple after translation, so that two get another port, and the alias of one is under its second key.
#[test]
fn late_packets_of_an_ended_flow_with_its_alias_under_the_second_key_are_not_those_of_the_next_one()
{
    const OTHER_VIP: [u8; 4] = [10, 96, 0, 77];
    let datapath = Datapath::node();
    datapath.snat_ports(2000, 2000);
    let backend = (SERVER, 8080);
    datapath.service(7, (VIP, 80, proto::UDP), &[backend]);
    datapath.service(8, (OTHER_VIP, 80, proto::UDP), &[backend]);
    let request = |to, others: &[Outcome]| {
        let packet = Packet::udp((CLIENT, PORT), to, b"question");
        datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(others).sport()
    };
    let answer = |port| {
        let packet = Packet::udp(backend, (CLIENT, port), b"answer");
        let sent = datapath.from_pod(SERVER_IFINDEX, &packet).to_pod(&[Outcome::Restored]);
        (sent.src, sent.sport(), sent.dport())
    };
    assert_eq!(request((VIP, 80), &[Outcome::Translated]), PORT);
    let direct = request(backend, &[]);
    assert_ne!(direct, PORT);
    let shadow = FlowKey { shadow: 1, ..tuple(proto::UDP, (CLIENT, PORT), backend) };
    assert!(datapath.entry(&shadow).is_some(), "{:?}", datapath.flows());
    assert_eq!(answer(direct), (SERVER, 8080, PORT));
    datapath.age_flows(40);
    assert_eq!(request((VIP, 80), &[Outcome::Translated]), PORT);
    let next = request((OTHER_VIP, 80), &[Outcome::Translated]);
    assert_eq!(next, direct, "the only port");
    assert!(datapath.entry(&shadow).is_some(), "what is left of the ended flow");
    assert_eq!(answer(next), (OTHER_VIP, 80, PORT));
    // An error about its last answer, and a request of it.
    let about = Packet::udp(backend, (CLIENT, PORT), b"answer");
    let unreachable = Packet::icmp_error(CLIENT, SERVER, (3, 3, 0), &about, 8);
    datapath.from_pod(CLIENT_IFINDEX, &unreachable).dropped(DropReason::NotTracked);
    let late = Packet::udp((CLIENT, PORT), backend, b"question");
    datapath.from_pod(CLIENT_IFINDEX, &late).dropped(DropReason::NoSnatPort);
    assert_eq!(answer(next), (OTHER_VIP, 80, PORT));
    assert_eq!(answer(PORT), (VIP, 80, PORT));
}
