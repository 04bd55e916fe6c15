//! Pressure on the tables of flows: what a pod that receives nothing else has opened goes on.

use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{
    DropReason, FlowEntry, FlowKey, Outcome, PodFlows, PolicyPorts, map, program, proto,
};
use sluice_bpf::test_run;

use super::{ACK, NONE, SYN, SYN_ACK, WEB};

/// Entries in `FLOWS`.
const CONFIRMED: u32 = 2048;
/// Pods that flood.
const OTHERS: [[u8; 4]; 6] = [
    SERVER,
    [10, 244, 1, 31],
    [10, 244, 1, 32],
    [10, 244, 1, 33],
    [10, 244, 1, 34],
    [10, 244, 1, 35],
];

/// A flow of CLIENT, with the reply to it as it arrives at the node.
struct Opened {
    proto: u8,
    port: u16,
    server: [u8; 4],
    replies_to: ([u8; 4], u16),
}

/// A node whose pod CLIENT may send to the class of some servers, and receives nothing.
fn node() -> Datapath {
    let datapath = Datapath::load_with(Options { flows: Some(CONFIRMED), ..Options::default() });
    datapath.configure_node();
    for pod in OTHERS {
        datapath.local_pod(pod, if pod == SERVER { SERVER_IFINDEX } else { CLIENT_IFINDEX });
    }
    datapath.class(SERVER, Some(WEB));
    datapath.class(FAR_POD, Some(WEB));
    datapath.network_class(EXTERNAL, 32, WEB);
    datapath.isolate(CLIENT, Egress, &[(WEB, PolicyPorts::ALL)], NONE);
    datapath.isolate(CLIENT, Ingress, &[], NONE);
    datapath
}

/// Whether a packet was delivered; if not, a policy has dropped it as the first one of a flow, which a segment without
/// SYN cannot be: that is counted.
#[track_caller]
fn passes(run: &Run) -> bool {
    let labels = run.labels();
    match run.action {
        Action::Redirect => true,
        _ => {
            let is_tcp = Packet::read(&run.frame).unwrap().proto == proto::TCP;
            let mid_stream = is_tcp.then_some(Outcome::MidStream.label());
            let by_policy = [DropReason::PolicyIngress.label()].into_iter();
            assert_eq!(labels, by_policy.chain(mid_stream).collect::<Vec<_>>(), "{:?}", run.action);
            false
        }
    }
}

impl Opened {
    fn packet(&self, flags: u8) -> Packet {
        let (from, to) = ((CLIENT, self.port), (self.server, 80));
        match self.proto {
            proto::TCP => Packet::tcp(from, to, flags, b""),
            _ => Packet::udp(from, to, b"x"),
        }
    }

    fn send(&self, datapath: &Datapath, flags: u8) -> Run {
        datapath.from_pod(CLIENT_IFINDEX, &self.packet(flags))
    }

    fn reply(&self, datapath: &Datapath, flags: u8) -> Run {
        let (from, to) = ((self.server, 80), self.replies_to);
        let packet = match self.proto {
            proto::TCP => Packet::tcp(from, to, flags, b""),
            _ => Packet::udp(from, to, b"x"),
        };
        match self.server {
            SERVER => datapath.from_pod(SERVER_IFINDEX, &packet),
            _ => datapath.from_netdev(&packet),
        }
    }
}

/// Opens a flow of CLIENT.
fn open(datapath: &Datapath, proto: u8, server: [u8; 4], port: u16) -> Opened {
    let mut opened = Opened { proto, port, server, replies_to: (CLIENT, port) };
    let run = opened.send(datapath, SYN);
    assert!(passes(&run));
    let sent = run.packet();
    opened.replies_to = (sent.src, sent.sport());
    assert!(passes(&opened.reply(datapath, SYN_ACK)));
    assert!(passes(&opened.send(datapath, ACK)));
    opened
}

/// A flow of each protocol to each kind of server.
fn open_all(datapath: &Datapath, port: u16) -> Vec<Opened> {
    let servers = [SERVER, FAR_POD, EXTERNAL];
    let of = |server| [proto::TCP, proto::UDP].map(|proto| open(datapath, proto, server, port));
    servers.into_iter().flat_map(of).collect()
}

/// Runs a program over a frame, without the counters of each packet, of which there are many.
fn run(datapath: &Datapath, name: &str, frame: &[u8], ifindex: u32) -> Action {
    test_run::run(datapath.fd(name), frame, ifindex, 0, 1).unwrap().action
}

/// A host of a flood.
fn host(n: u32) -> [u8; 4] {
    let [_, a, b, c] = n.to_be_bytes();
    [203, a, b, c]
}

/// A packet of a pod to a host that does not answer. Returns whether it was sent.
fn flood_from_pod(datapath: &Datapath, pod: [u8; 4], n: u32) -> bool {
    let ifindex = if pod == SERVER { SERVER_IFINDEX } else { CLIENT_IFINDEX };
    let packet = Packet::udp((pod, 4000), (host(n), 9), b"x");
    let frame = packet.frame(topology::HOST_MAC, topology::pod_mac(pod));
    run(datapath, program::FROM_POD, &frame, ifindex) == Action::Redirect
}

/// A packet of a host, which SERVER answers: the flow is confirmed, if there is space.
fn flood_from_wire(datapath: &Datapath, n: u32) {
    let (from, to) = ((host(n), 4000), (SERVER, 53));
    let request = Packet::udp(from, to, b"x").bytes_from_wire();
    let action = run(datapath, program::FROM_NETDEV, &request, UPLINK_IFINDEX);
    assert_eq!(action, Action::Redirect);
    let reply = Packet::udp(to, from, b"x").bytes_from_pod(SERVER_IFINDEX);
    assert_eq!(run(datapath, program::FROM_POD, &reply, SERVER_IFINDEX), Action::Redirect);
}

fn limits(datapath: &Datapath, pod: [u8; 4]) -> PodFlows {
    datapath.map(map::POD_FLOWS).lookup(&u32::from(pod[3])).unwrap().unwrap()
}

/// Entries of a table, aliases included.
fn entries(datapath: &Datapath, table: &str) -> usize {
    datapath.map::<FlowKey, FlowEntry>(table).entries().unwrap().len()
}

#[test]
fn replies_to_an_isolated_pod_pass_under_pressure() {
    let datapath = node();
    let confirmed = open_all(&datapath, 1000);
    // One pod has more flows than fit, and each of the others all that it may open.
    for n in 0..20_000 {
        flood_from_wire(&datapath, n);
    }
    assert!(entries(&datapath, map::FLOWS) >= CONFIRMED as usize - 2);
    let beyond = limits(&datapath, SERVER).unconfirmed;
    assert!(beyond >= 17_000, "{beyond} flows beyond the limit are counted");
    let mut sent = 0;
    for pod in OTHERS {
        sent += (0..20_000u32).filter(|n| flood_from_pod(&datapath, pod, *n)).count();
    }
    assert!(sent > map::FLOWS_NEW_POD_MAX as usize, "{sent} new flows");
    let refused = datapath.counters()[DropReason::TooManyNewFlows.label()].packets;
    assert_eq!(refused, 120_000 - sent as u64, "flows beyond the tokens are counted");
    for _ in 0..2 {
        for flow in &confirmed {
            assert!(passes(&flow.reply(&datapath, ACK)), "{} {:?}", flow.proto, flow.server);
            assert!(passes(&flow.send(&datapath, ACK)), "{} {:?}", flow.proto, flow.server);
        }
    }
    assert_eq!(limits(&datapath, CLIENT).unconfirmed, 0);
    let denied = datapath.counters().get(DropReason::PolicyIngress.label()).copied();
    assert_eq!(denied, None, "no reply was taken for a new flow");
}

#[test]
fn flows_that_cannot_be_confirmed_go_on_until_they_are_evicted() {
    // Each CPU has free entries of its own.
    cpu::stay();
    let mut datapath = node();
    for n in 0..4_000 {
        flood_from_wire(&datapath, n);
    }
    // Full: what the pod opens now stays among the flows that can be evicted, which is counted.
    let unconfirmed = open_all(&datapath, 1000);
    assert_eq!(limits(&datapath, CLIENT).unconfirmed as usize, unconfirmed.len());
    // Neither a flood from the wire nor that of one pod evicts them.
    for n in 4_000..24_000 {
        flood_from_wire(&datapath, n);
        flood_from_pod(&datapath, SERVER, n);
    }
    for flow in &unconfirmed {
        assert!(passes(&flow.reply(&datapath, ACK)), "{} {:?}", flow.proto, flow.server);
    }
    // Flows of several pods with a second packet do: the kernel moves entries that were looked up to a list of
    // their own, which it shortens only when it has more than half of the entries.
    for pod in OTHERS {
        for n in 0..8_000 {
            flood_from_pod(&datapath, pod, n);
            flood_from_pod(&datapath, pod, n);
        }
    }
    let untranslated = unconfirmed.iter().filter(|flow| flow.server != EXTERNAL);
    let (known, evicted): (Vec<_>, Vec<_>) = untranslated.partition(|flow| {
        let key = tuple(flow.proto, (CLIENT, flow.port), (flow.server, 80)).sorted();
        datapath.entry(&key).is_some()
    });
    println!("{} known, {} evicted", known.len(), evicted.len());
    for proto in [proto::TCP, proto::UDP] {
        assert!(evicted.iter().any(|flow| flow.proto == proto), "none of protocol {proto}");
    }
    for flow in known {
        assert!(passes(&flow.reply(&datapath, ACK)), "{} {:?}", flow.proto, flow.server);
    }
    let mut reported = Vec::new();
    for flow in evicted {
        let of = format!("protocol {}, server {:?}", flow.proto, flow.server);
        // The reply is denied, as the first packet of a flow, and the next packet of the pod opens it again.
        datapath.events();
        assert!(!passes(&flow.reply(&datapath, ACK)), "{of}");
        if let Some(event) = datapath.events().first() {
            assert_eq!(event.is_mid_stream == 1, flow.proto == proto::TCP, "{of}");
            reported.push(flow.proto);
        }
        assert!(passes(&flow.send(&datapath, ACK)), "{of}");
        assert!(passes(&flow.reply(&datapath, ACK)), "{of}");
    }
    for proto in [proto::TCP, proto::UDP] {
        assert!(reported.contains(&proto), "no event of protocol {proto}");
    }
}
