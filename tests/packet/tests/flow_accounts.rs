//! What flows are counted as for the pods that are accountable for them: tokens, and flows that could not be
//! confirmed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{FlowEntry, FlowKey, NodeConfig, Outcome, PodFlows, map, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The row of a pod.
fn account(datapath: &Datapath, pod: [u8; 4]) -> PodFlows {
    let index = u32::from(pod[3]);
    datapath.map::<u32, PodFlows>(map::POD_FLOWS).lookup(&index).unwrap().unwrap()
}

/// Opens flows of SERVER without an answer; returns the tokens that it uses.
fn take_tokens(datapath: &Datapath) -> u32 {
    for port in 1..=20 {
        let request = Packet::udp((SERVER, PORT), (EXTERNAL, port), b"x");
        let run = datapath.from_pod(SERVER_IFINDEX, &request);
        run.to_uplink(&[Outcome::Masqueraded]);
    }
    let tokens = account(datapath, SERVER).tokens_used;
    assert!(tokens > 0);
    tokens
}

#[test]
fn a_flow_that_a_pod_receives_returns_no_token_to_it() {
    let datapath = Datapath::node();
    let tokens = take_tokens(&datapath);
    let confirmed = || account(&datapath, SERVER).confirmed;
    // From the wire.
    datapath.from_netdev(&Packet::udp((EXTERNAL, 1000), (SERVER, 53), b"x")).to_pod(&[]);
    let answer = Packet::udp((SERVER, 53), (EXTERNAL, 1000), b"x");
    datapath.from_pod(SERVER_IFINDEX, &answer).to_uplink(&[]);
    assert_eq!((confirmed(), account(&datapath, SERVER).tokens_used), (1, tokens), "from the wire");
    // From the node.
    let connection = |flags| Packet::tcp((NODE, 1000), (SERVER, 80), flags, b"");
    datapath.to_pod(SERVER_IFINDEX, &connection(SYN)).passed();
    let answer = Packet::tcp((SERVER, 80), (NODE, 1000), SYN | ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &answer).to_stack(&[]);
    datapath.to_pod(SERVER_IFINDEX, &connection(ACK)).passed();
    assert_eq!((confirmed(), account(&datapath, SERVER).tokens_used), (2, tokens), "from the node");
    // A flow between pods returns the token of the one that opened it.
    datapath.from_pod(CLIENT_IFINDEX, &Packet::udp((CLIENT, 1000), (SERVER, 53), b"x")).to_pod(&[]);
    assert_eq!(account(&datapath, CLIENT).tokens_used, 1);
    let answer = Packet::udp((SERVER, 53), (CLIENT, 1000), b"x");
    datapath.from_pod(SERVER_IFINDEX, &answer).to_pod(&[]);
    assert_eq!(account(&datapath, CLIENT).tokens_used, 0);
    assert_eq!(account(&datapath, SERVER).tokens_used, tokens, "from a pod");
}

/// A masqueraded exchange of CLIENT whose entry cannot be confirmed: ten replies.
fn exchange(datapath: &Datapath, port: u16) {
    let to = (EXTERNAL, 53);
    let request = Packet::udp((CLIENT, port), to, b"x");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &request).to_uplink(&[Outcome::Masqueraded]);
    for _ in 0..10 {
        let reply = Packet::udp(to, (NODE, sent.sport()), b"x");
        assert_eq!(datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]).dport(), port);
        datapath.from_pod(CLIENT_IFINDEX, &request).to_uplink(&[Outcome::Masqueraded]);
        // Later packets renew the entry, and do not count the flow again.
        datapath.age_flows(1);
    }
    let count = |table: &str| datapath.map::<FlowKey, FlowEntry>(table).entries().unwrap().len();
    assert_eq!((count(map::FLOWS_NEW_POD) % 2, account(datapath, CLIENT).confirmed), (0, 0));
}

#[test]
fn a_flow_that_cannot_be_confirmed_is_counted_once() {
    // The pod has reached its limit; the table is full; it has an entry for one of two.
    for (limit, capacity, taken) in [(0, None, 0), (100, Some(1), 1), (100, Some(1), 0)] {
        let datapath = Datapath::load_with(Options { flows: capacity, ..Options::default() });
        datapath.configure_node();
        datapath.node_config(&NodeConfig { flows_per_pod: limit, ..node_config() });
        for port in 0..taken {
            let tuple = tuple(proto::TCP, ([192, 0, 2, 1], port), ([192, 0, 2, 2], 1));
            let entry = FlowEntry { tuple, other: tuple, ..FlowEntry::default() };
            datapath.map(map::FLOWS).update(&tuple.sorted(), &entry).unwrap();
        }
        let in_main_table = datapath.flows_in(map::FLOWS).len();
        for flows in 1..=3 {
            exchange(&datapath, 1000 + flows);
            let unconfirmed = account(&datapath, CLIENT).unconfirmed;
            assert_eq!(unconfirmed, u32::from(flows), "{limit} {capacity:?} {taken}");
        }
        assert_eq!(datapath.flows_in(map::FLOWS).len(), in_main_table);
    }
}

#[test]
fn a_flow_that_could_not_be_confirmed_is_confirmed_when_the_limit_allows_it() {
    let datapath = Datapath::node();
    datapath.node_config(&NodeConfig { flows_per_pod: 0, ..node_config() });
    exchange(&datapath, 1000);
    assert!(datapath.flows_in(map::FLOWS).is_empty());
    datapath.node_config(&node_config());
    let source = datapath.flows()[0].tuple.sport.get();
    let reply = Packet::udp((EXTERNAL, 53), (NODE, source), b"x");
    datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]);
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 1);
    let account = account(&datapath, CLIENT);
    assert_eq!((account.confirmed, account.unconfirmed, account.tokens_used), (2, 1, 0));
}
