//! Masqueraded flows when an address of the node changes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::topology::{SECOND_HOST, SECOND_IFINDEX, SECOND_NODE};
use packet_tests::*;
use sluice_abi::{FlowEntry, NetworkKey, Outcome, device_flags, map, network_kind, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;
/// The next address of the node on the second uplink.
const NEW_ADDRESS: [u8; 4] = [192, 168, 9, 3];

/// Replaces the address of the node on the second uplink.
fn change_address(datapath: &Datapath) {
    datapath.network(NEW_ADDRESS, 32, network_kind::THIS_NODE);
    datapath.device(SECOND_IFINDEX, NEW_ADDRESS, device_flags::MANAGED);
    let old = NetworkKey { prefix_len: 128, addr: topology::v4(SECOND_NODE) };
    assert!(datapath.map::<NetworkKey, sluice_abi::Network>(map::NETWORKS).delete(&old).unwrap());
}

/// Packets of CLIENT to the second uplink; the next ones are in a later tick. Returns the source of each.
fn sources(datapath: &Datapath, packets: &[Packet]) -> Vec<[u8; 4]> {
    let send = |packet: &Packet| {
        datapath.from_pod(CLIENT_IFINDEX, packet).to_uplink(&[Outcome::Masqueraded]).src
    };
    let sources = packets.iter().map(send).collect();
    datapath.age_flows(1);
    sources
}

#[test]
fn datagrams_get_the_new_address_of_the_node_and_connections_keep_the_old_one() {
    let datapath = Datapath::node();
    let to = (SECOND_HOST, 80);
    sources(&datapath, &[Packet::tcp((CLIENT, 1), to, SYN, b"")]);
    let packets = [
        Packet::udp((CLIENT, 2), to, b"x"),
        Packet::echo(CLIENT, SECOND_HOST, 8, 3, b"x"),
        Packet::new(CLIENT, SECOND_HOST, 47, vec![0; 20]),
        Packet::tcp((CLIENT, 1), to, ACK, b"x"),
        Packet::sctp((CLIENT, 4), to, b"data"),
    ];
    let port = |proto: u8| {
        let flows: Vec<FlowEntry> =
            datapath.flows().into_iter().filter(|flow| flow.tuple.proto == proto).collect();
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows[0].tuple.sport
    };
    assert_eq!(sources(&datapath, &packets), [SECOND_NODE; 5]);
    let ports = [proto::UDP, proto::TCP].map(port);
    assert_eq!(sources(&datapath, &packets), [SECOND_NODE; 5]);
    assert_eq!([proto::UDP, proto::TCP].map(port), ports, "without a change");

    change_address(&datapath);
    let new = [NEW_ADDRESS, NEW_ADDRESS, NEW_ADDRESS, SECOND_NODE, SECOND_NODE];
    assert_eq!(sources(&datapath, &packets), new);
    assert_eq!(sources(&datapath, &packets), new);
    // The flow of the old address is removed.
    assert_eq!(datapath.flows().len(), packets.len());
    assert_eq!(port(proto::TCP), ports[1]);
}
