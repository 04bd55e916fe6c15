//! What flows are counted as for the pods that are accountable for them, and for those without a pod: tokens,
//! entries, and flows that could not be confirmed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{FlowEntry, FlowKey, NodeConfig, Outcome, PodFlows, map, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;

fn row(datapath: &Datapath, index: u32) -> PodFlows {
    datapath.map::<u32, PodFlows>(map::POD_FLOWS).lookup(&index).unwrap().unwrap()
}

/// The row of a pod.
fn account(datapath: &Datapath, pod: [u8; 4]) -> PodFlows {
    row(datapath, u32::from(pod[3]))
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

/// A datagram with a forged source to a Service whose only backend is FAR_POD, on another node; returns the
/// source port of the flow.
fn forge(datapath: &Datapath, n: u16) -> u16 {
    let [high, low] = n.to_be_bytes();
    let request = Packet::udp(([203, 0, high, low], 1000), (VIP, 54), b"x");
    let to_backend = &[Outcome::Translated, Outcome::Masqueraded];
    datapath.from_netdev(&request).to_uplink(to_backend).sport()
}

/// The answer of FAR_POD.
fn answer(datapath: &Datapath, port: u16) {
    let answer = Packet::udp((FAR_POD, 5353), (NODE, port), b"x");
    assert_eq!(datapath.from_netdev(&answer).to_uplink(&[Outcome::Restored]).src, VIP);
}

/// A node that serves a Service by a pod of another node, with little space for flows.
fn node_with_remote_backend(flows: u32, without_pod: u32) -> Datapath {
    let datapath = Datapath::load_with(Options { flows: Some(flows), ..Options::default() });
    datapath.configure_node();
    datapath.node_config(&NodeConfig { flows_without_pod: without_pod, ..node_config() });
    datapath.service(7, (VIP, 54, proto::UDP), &[(FAR_POD, 5353)]);
    datapath
}

#[test]
fn answered_flows_without_a_pod_leave_half_of_the_table_to_pods() {
    let datapath = node_with_remote_backend(200, 100);
    let ports: Vec<u16> = (0..300).map(|n| forge(&datapath, n)).collect();
    for &port in &ports {
        answer(&datapath, port);
    }
    // Two entries per flow.
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 50);
    let without_pod = row(&datapath, map::FLOWS_WITHOUT_POD);
    assert_eq!((without_pod.confirmed, without_pod.unconfirmed), (100, 250));
    assert_eq!(without_pod.tokens_used, 0);
    // Flows beyond the limit work in both directions, and are counted once.
    for (n, &port) in (0..).zip(&ports) {
        assert_eq!(forge(&datapath, n), port, "flow {n}");
        answer(&datapath, port);
    }
    assert_eq!(row(&datapath, map::FLOWS_WITHOUT_POD).unconfirmed, 250);
    // Those of a pod are confirmed.
    for port in 1..=40 {
        let to = (EXTERNAL, 53);
        let request = Packet::udp((CLIENT, port), to, b"x");
        let sent = datapath.from_pod(CLIENT_IFINDEX, &request).to_uplink(&[Outcome::Masqueraded]);
        let reply = Packet::udp(to, (NODE, sent.sport()), b"x");
        datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]);
    }
    let client = account(&datapath, CLIENT);
    assert_eq!((client.confirmed, client.unconfirmed), (80, 0));
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 90);
}

/// An answered datagram of the node itself to the Service.
fn exchange_of_node(datapath: &Datapath, port: u16) {
    let request = Packet::udp((NODE, port), (VIP, 54), b"x");
    datapath.to_netdev(&request).to_uplink(&[Outcome::Translated]);
    let answer = Packet::udp((FAR_POD, 5353), (NODE, port), b"x");
    assert_eq!(datapath.from_netdev(&answer).to_stack(&[Outcome::Restored]).src, VIP);
}

/// What a round of the agent does while all flows have no pod: removes some, and corrects the count.
fn remove_flows(datapath: &Datapath, flows: usize) {
    let table = datapath.map::<FlowKey, FlowEntry>(map::FLOWS);
    for flow in datapath.flows_in(map::FLOWS).iter().take(flows) {
        assert!(table.delete(&flow.tuple.sorted()).unwrap());
        assert!(table.delete(&flow.other.sorted()).unwrap());
    }
    let confirmed = table.entries().unwrap().len() as u32;
    let without_pod = PodFlows { confirmed, ..row(datapath, map::FLOWS_WITHOUT_POD) };
    datapath.map(map::POD_FLOWS).update(&map::FLOWS_WITHOUT_POD, &without_pod).unwrap();
}

/// Hosts and the node itself share the limit, also after the agent has removed flows.
#[test]
fn senders_without_a_pod_take_the_entries_that_were_removed_and_no_more() {
    let datapath = node_with_remote_backend(200, 100);
    for round in 0..4 {
        for n in 0..40 {
            let port = forge(&datapath, round * 40 + n);
            answer(&datapath, port);
            exchange_of_node(&datapath, 1000 + round * 40 + n);
        }
        let without_pod = row(&datapath, map::FLOWS_WITHOUT_POD);
        let entries = datapath.map::<FlowKey, FlowEntry>(map::FLOWS).entries().unwrap().len();
        assert_eq!((without_pod.confirmed, entries), (100, 100), "round {round}");
        remove_flows(&datapath, 20);
    }
}

/// A client with a forged source cannot keep a connection confirmed: its ACK is wrong, and answered with a RST.
#[test]
fn connections_without_a_pod_are_not_limited() {
    let datapath = node_with_remote_backend(200, 2);
    datapath.service(8, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    for n in 0..40 {
        let send = |flags| {
            let segment = Packet::tcp(([203, 0, 1, n], 1000), (VIP, 80), flags, b"");
            let to_backend = &[Outcome::Translated, Outcome::Masqueraded];
            datapath.from_netdev(&segment).to_uplink(to_backend).sport()
        };
        let port = send(SYN);
        let answer = Packet::tcp((FAR_POD, 8080), (NODE, port), SYN | ACK, b"");
        datapath.from_netdev(&answer).to_uplink(&[Outcome::Restored]);
        assert_eq!(send(ACK), port);
    }
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 40);
    let without_pod = row(&datapath, map::FLOWS_WITHOUT_POD);
    assert_eq!((without_pod.confirmed, without_pod.unconfirmed), (0, 0));
    // They leave the limit to datagrams.
    let port = forge(&datapath, 1);
    answer(&datapath, port);
    assert_eq!(row(&datapath, map::FLOWS_WITHOUT_POD).confirmed, 2);
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 41);
}

#[test]
fn flows_of_the_node_itself_have_no_pod() {
    let datapath = node_with_remote_backend(200, 2);
    for port in [1000, 1001] {
        exchange_of_node(&datapath, port);
    }
    let without_pod = row(&datapath, map::FLOWS_WITHOUT_POD);
    assert_eq!((without_pod.confirmed, without_pod.unconfirmed), (2, 1));
}

#[test]
fn an_ended_flow_without_a_pod_returns_its_entries() {
    let datapath = node_with_remote_backend(200, 100);
    let port = forge(&datapath, 1);
    answer(&datapath, port);
    let confirmed = || row(&datapath, map::FLOWS_WITHOUT_POD).confirmed;
    assert_eq!(confirmed(), 2);
    // The client's next datagram opens the flow again.
    datapath.age_flows(200);
    forge(&datapath, 1);
    assert_eq!((confirmed(), datapath.flows_in(map::FLOWS).len()), (0, 0));
}

/// The destination of an open flow becomes a pod: two entries were counted without one, and the main entry is
/// removed as the pod's, whose count stays at zero. The agent corrects the other.
#[test]
fn a_flow_that_gets_a_pod_later_leaves_counts_that_the_agent_can_correct() {
    let datapath = node_with_remote_backend(200, 100);
    let port = forge(&datapath, 1);
    answer(&datapath, port);
    datapath.local_pod(FAR_POD, SERVER_IFINDEX);
    datapath.age_flows(2);
    let request = Packet::udp(([203, 0, 0, 1], 1000), (VIP, 54), b"x");
    datapath.from_netdev(&request).to_pod(&[Outcome::Translated, Outcome::Masqueraded]);
    datapath.age_flows(200);
    datapath.from_netdev(&request).to_pod(&[Outcome::Translated, Outcome::Masqueraded]);
    assert!(datapath.flows_in(map::FLOWS).is_empty());
    let of_pod = account(&datapath, FAR_POD).confirmed;
    assert_eq!((row(&datapath, map::FLOWS_WITHOUT_POD).confirmed, of_pod), (1, 0));
}
