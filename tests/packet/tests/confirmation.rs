//! Which table a flow is in: `FLOWS` once both sides have taken part, until both have closed it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::{BTreeMap, BTreeSet};

use packet_tests::random::Random;
use packet_tests::*;
use sluice_abi::{FlowEntry, FlowKey, PodFlows, PodRef, map, program, proto};
use sluice_bpf::test_run;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

type End = ([u8; 4], u16);

/// Index of a pod, as the tests assign it.
fn index(pod: [u8; 4]) -> u32 {
    u32::from(pod[3])
}

/// Entries in `FLOWS` that are counted for an index.
fn confirmed_of(datapath: &Datapath, index: u32) -> u32 {
    datapath.map::<u32, PodFlows>(map::POD_FLOWS).lookup(&index).unwrap().unwrap().confirmed
}

/// A conversation between two ends.
#[derive(Clone, Copy, Debug)]
struct Conversation {
    proto: u8,
    client: End,
    /// The destination of the client's packets.
    dialled: End,
}

impl Conversation {
    fn original(&self) -> FlowKey {
        tuple(self.proto, self.client, self.dialled)
    }

    fn is_to_service(&self) -> bool {
        self.dialled.0 == VIP
    }

    fn packet(&self, from: End, to: End, flags: u8) -> Packet {
        match self.proto {
            proto::TCP => Packet::tcp(from, to, flags, b"data"),
            _ => Packet::udp(from, to, b"data"),
        }
    }
}

/// The end of a tuple, as packets of these tests have it.
fn end(addr: sluice_abi::Addr, port: sluice_abi::PortBe) -> End {
    let bytes = addr.0;
    ([bytes[12], bytes[13], bytes[14], bytes[15]], port.get())
}

/// Sends a packet at the hook of its sender. Returns whether it was delivered, or answered with a reset.
fn send(datapath: &Datapath, sender: [u8; 4], packet: &Packet) -> bool {
    let (program, frame, ifindex) = match sender {
        CLIENT => (program::FROM_POD, packet.bytes_from_pod(CLIENT_IFINDEX), CLIENT_IFINDEX),
        SERVER => (program::FROM_POD, packet.bytes_from_pod(SERVER_IFINDEX), SERVER_IFINDEX),
        _ => (program::FROM_NETDEV, packet.bytes_from_wire(), UPLINK_IFINDEX),
    };
    let ran = test_run::run(datapath.fd(program), &frame, ifindex, 0, 1).unwrap();
    match ran.action {
        Action::Redirect => true,
        Action::Drop => false,
        other => panic!("{other:?} for {packet:?}"),
    }
}

fn forward(datapath: &Datapath, conversation: &Conversation, flags: u8) -> bool {
    let packet = conversation.packet(conversation.client, conversation.dialled, flags);
    send(datapath, conversation.client.0, &packet)
}

/// Sends a packet of the server as its flow's entry requires.
fn reply(datapath: &Datapath, conversation: &Conversation, flags: u8) -> bool {
    let original = conversation.original();
    let flows = datapath.flows();
    let flow = flows.iter().find(|flow| flow.other == original).expect("the flow has an entry");
    let (from, to) = (end(flow.tuple.dst, flow.tuple.dport), end(flow.tuple.src, flow.tuple.sport));
    send(datapath, from.0, &conversation.packet(from, to, flags))
}

fn node() -> Datapath {
    let datapath = Datapath::node();
    datapath.service(1, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    datapath.service(2, (VIP, 81, proto::TCP), &[(FAR_POD, 8080)]);
    datapath.service(3, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    datapath.service(4, (VIP, 54, proto::UDP), &[(FAR_POD, 5353)]);
    datapath
}

/// The kinds of flows: between local pods, to a Service, to the outside, and from there; the last one is
/// between other hosts.
const ROUTES: [([u8; 4], [u8; 4], u16); 9] = [
    (CLIENT, SERVER, 8080),
    (CLIENT, VIP, 80),
    (CLIENT, VIP, 81),
    (CLIENT, FAR_POD, 8080),
    (CLIENT, EXTERNAL, 443),
    (FAR_POD, SERVER, 8080),
    (EXTERNAL, SERVER, 8080),
    (EXTERNAL, VIP, 80),
    (EXTERNAL, VIP, 81),
];

fn tcp(route: usize, port: u16) -> Conversation {
    let (client, server, dport) = ROUTES[route];
    Conversation { proto: proto::TCP, client: (client, port), dialled: (server, dport) }
}

fn is_confirmed(datapath: &Datapath, conversation: &Conversation) -> bool {
    let tuple = conversation.original();
    datapath.flows_in(map::FLOWS).iter().any(|flow| flow.other == tuple)
}

#[test]
fn tcp_is_confirmed_after_the_handshake_until_it_is_closed() {
    let datapath = node();
    for route in 0..ROUTES.len() {
        for (port, ends) in [(1000, &[RST][..]), (1001, &[FIN | ACK, FIN | ACK])] {
            let flow = tcp(route, port);
            // Connections without a pod are not counted.
            let (owner, is_counted) = match flow.client.0 {
                CLIENT => (index(CLIENT), true),
                _ if flow.dialled.1 == 81 => (map::FLOWS_WITHOUT_POD, false),
                _ => (index(SERVER), true),
            };
            assert!(forward(&datapath, &flow, SYN));
            assert!(!is_confirmed(&datapath, &flow));
            assert!(reply(&datapath, &flow, SYN | ACK));
            assert!(!is_confirmed(&datapath, &flow), "{flow:?}: by the SYN|ACK");
            assert_eq!(confirmed_of(&datapath, owner), 0);
            assert!(forward(&datapath, &flow, ACK));
            assert!(is_confirmed(&datapath, &flow), "{flow:?}");
            let entries = datapath.map::<FlowKey, FlowEntry>(map::FLOWS).entries().unwrap().len();
            let counted = if is_counted { entries } else { 0 };
            assert_eq!(confirmed_of(&datapath, owner) as usize, counted, "{flow:?}");
            for (n, &flags) in ends.iter().enumerate() {
                assert!(is_confirmed(&datapath, &flow), "{flow:?}: before its end");
                let sent = if n == 0 {
                    forward(&datapath, &flow, flags)
                } else {
                    reply(&datapath, &flow, flags)
                };
                assert!(sent);
            }
            assert!(!is_confirmed(&datapath, &flow), "{flow:?}: after its end");
            assert_eq!(confirmed_of(&datapath, owner), 0);
            assert!(datapath.map::<FlowKey, FlowEntry>(map::FLOWS).entries().unwrap().is_empty());
            // Late packets still have their translation.
            assert!(reply(&datapath, &flow, ACK) && forward(&datapath, &flow, ACK));
        }
    }
}

#[test]
fn udp_is_confirmed_by_the_reply() {
    let datapath = node();
    for (client, dialled) in [
        (CLIENT, (SERVER, 9)),
        (CLIENT, (VIP, 53)),
        (CLIENT, (VIP, 54)),
        (CLIENT, (EXTERNAL, 53)),
        (EXTERNAL, (SERVER, 9)),
        (EXTERNAL, (VIP, 53)),
        (EXTERNAL, (VIP, 54)),
    ] {
        let flow = Conversation { proto: proto::UDP, client: (client, 1000), dialled };
        for _ in 0..3 {
            assert!(forward(&datapath, &flow, 0));
            assert!(!is_confirmed(&datapath, &flow), "{flow:?}: by a request");
        }
        assert!(reply(&datapath, &flow, 0));
        assert!(is_confirmed(&datapath, &flow), "{flow:?}");
    }
}

/// What one side of a TCP connection has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Nothing,
    Syn,
    Data,
    Fin,
    Reset,
}

impl Sent {
    fn and(self, flags: u8) -> Sent {
        match self {
            Sent::Reset => Sent::Reset,
            _ if flags & RST != 0 => Sent::Reset,
            Sent::Fin => Sent::Fin,
            _ if flags & FIN != 0 => Sent::Fin,
            Sent::Nothing | Sent::Syn if flags & SYN != 0 => Sent::Syn,
            _ => Sent::Data,
        }
    }
}

/// The state of a flow in the model.
#[derive(Clone, Copy, Debug)]
struct Model {
    client: Sent,
    server: Sent,
    confirmed: bool,
}

impl Model {
    fn opened(proto: u8, flags: u8) -> Model {
        let client = if proto == proto::TCP { Sent::Nothing.and(flags) } else { Sent::Nothing };
        Model { client, server: Sent::Nothing, confirmed: false }
    }

    fn is_closed(&self) -> bool {
        let ends = [self.client, self.server];
        ends.contains(&Sent::Reset) || ends == [Sent::Fin; 2]
    }

    fn packet(&mut self, proto: u8, is_reply: bool, flags: u8) {
        if proto != proto::TCP {
            self.confirmed |= is_reply;
            return;
        }
        let side = if is_reply { &mut self.server } else { &mut self.client };
        *side = side.and(flags);
        if self.is_closed() {
            self.confirmed = false;
        } else if ![Sent::Nothing, Sent::Syn].contains(&self.client) {
            // The client has answered the server's answer.
            self.confirmed |= self.server != Sent::Nothing;
        }
    }
}

/// Compares the tables with the model, and checks that entries belong together.
fn check(datapath: &Datapath, flows: &[(Conversation, Option<Model>)], step: usize) {
    let mut mains: BTreeMap<FlowKey, (&str, FlowEntry)> = BTreeMap::new();
    let mut aliases = Vec::new();
    let mut counts: BTreeMap<PodRef2, u32> = BTreeMap::new();
    for table in map::FLOW_TABLES {
        for (key, entry) in datapath.map::<FlowKey, FlowEntry>(table).entries().unwrap() {
            let owner = entry.owner();
            if table == map::FLOWS && (!owner.is_none() || entry.tuple.proto != proto::TCP) {
                *counts.entry(owner.into()).or_default() += 1;
            }
            if entry.is_alias() {
                aliases.push((table, key, entry));
                continue;
            }
            assert_eq!(key, entry.tuple.sorted(), "step {step}");
            let other = mains.insert(key, (table, entry));
            assert!(other.is_none(), "step {step}: {entry:?} and {other:?}");
        }
    }
    let mut with_alias = BTreeSet::new();
    for (table, key, alias) in aliases {
        let keys = [alias.tuple.sorted(), alias.tuple.shadowed()];
        assert!(keys.contains(&key), "step {step}: {alias:?} with the key {key:?}");
        let main_key = alias.other.sorted();
        let Some((main_table, main)) = mains.get(&main_key) else {
            panic!("step {step}: no main entry of {alias:?}");
        };
        assert_eq!((main.tuple, main.other), (alias.other, alias.tuple), "step {step}");
        assert_eq!(*main_table, table, "step {step}: table of the alias of {main:?}");
        assert!(with_alias.insert(main_key), "step {step}: two aliases of {main:?}");
    }
    for (key, (_, main)) in &mains {
        assert_eq!(with_alias.contains(key), main.is_translated(), "step {step}: {main:?}");
    }
    let by_original: BTreeMap<FlowKey, &str> =
        mains.values().map(|(table, main)| (main.other, *table)).collect();
    assert_eq!(by_original.len(), mains.len(), "step {step}: two entries of one flow");
    let expected: BTreeMap<FlowKey, bool> = flows
        .iter()
        .filter_map(|(flow, model)| Some((flow.original(), model.as_ref()?.confirmed)))
        .collect();
    let found: BTreeMap<FlowKey, bool> =
        by_original.iter().map(|(tuple, table)| (*tuple, *table == map::FLOWS)).collect();
    assert_eq!(found, expected, "step {step}: whether each flow is confirmed");
    let of_pod = |pod| (index(pod), PodRef { index: index(pod) as u16, generation: 1 });
    for (index, owner) in [of_pod(CLIENT), of_pod(SERVER), (map::FLOWS_WITHOUT_POD, PodRef::NONE)] {
        let count = counts.get(&owner.into()).copied().unwrap_or_default();
        assert_eq!(confirmed_of(datapath, index), count, "step {step}: entries of {owner:?}");
    }
}

/// [`PodRef`] with an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct PodRef2(u16, u16);

impl From<PodRef> for PodRef2 {
    fn from(pod: PodRef) -> PodRef2 {
        PodRef2(pod.index, pod.generation)
    }
}

#[test]
fn random_packets_leave_each_flow_in_the_table_of_the_model() {
    const STEPS: usize = 3000;
    const CHECKS: usize = 60;
    let mut random = Random::from_environment();
    let datapath = node();
    // The same ports of the client for every destination, so that tuples after translation collide.
    let mut flows: Vec<(Conversation, Option<Model>)> = Vec::new();
    for port in 1000..1004 {
        flows.extend((0..ROUTES.len()).map(|route| (tcp(route, port), None)));
        for (client, dialled) in [
            (CLIENT, (SERVER, 5353)),
            (CLIENT, (VIP, 53)),
            (CLIENT, (VIP, 54)),
            (CLIENT, (EXTERNAL, 53)),
            (EXTERNAL, (SERVER, 5353)),
            (EXTERNAL, (VIP, 54)),
        ] {
            let flow = Conversation { proto: proto::UDP, client: (client, port), dialled };
            flows.push((flow, None));
        }
    }
    for step in 0..STEPS {
        let (flow, model) = {
            let n = random.below(flows.len());
            let (flow, model) = &mut flows[n];
            (*flow, model)
        };
        let is_reply = model.is_some() && random.below(2) == 0;
        let flags = match (random.below(12), is_reply) {
            (0..=3, false) => SYN,
            (0..=3, true) => SYN | ACK,
            (4..=8, _) => ACK,
            (9 | 10, _) => FIN | ACK,
            _ => RST | ACK,
        };
        let is_tcp = flow.proto == proto::TCP;
        if is_reply {
            assert!(reply(&datapath, &flow, flags), "step {step}: reply {flags} of {flow:?}");
            model.as_mut().unwrap().packet(flow.proto, true, flags);
        } else {
            let sent = forward(&datapath, &flow, flags);
            let is_new = model.is_none_or(|model| is_tcp && flags == SYN && model.is_closed());
            let may_open = !is_tcp || !flow.is_to_service() || flags == SYN;
            // What opens no flow is answered with a reset, unless it is one.
            let expected = !is_new || may_open || flags & RST == 0;
            assert_eq!(sent, expected, "step {step}: {flags} of {flow:?} {model:?}");
            if !is_new {
                model.as_mut().unwrap().packet(flow.proto, false, flags);
            } else if may_open {
                *model = Some(Model::opened(flow.proto, flags));
            }
        }
        if step % (STEPS / CHECKS) == 0 {
            check(&datapath, &flows, step);
        }
    }
    check(&datapath, &flows, STEPS);
    let confirmed = flows.iter().filter(|(_, model)| model.is_some_and(|m| m.confirmed)).count();
    assert!(confirmed > 0, "the sequence reaches every table");
    // Every connection ends, and nothing of it remains in `FLOWS`.
    for (flow, model) in &mut flows {
        if flow.proto == proto::TCP && model.is_some() {
            assert!(forward(&datapath, flow, RST));
            model.as_mut().unwrap().packet(flow.proto, false, RST);
        }
    }
    check(&datapath, &flows, STEPS + 1);
    let left = datapath.flows_in(map::FLOWS);
    assert!(left.iter().all(|flow| flow.tuple.proto == proto::UDP), "{left:?}");
}

#[test]
fn a_reply_to_a_forged_syn_confirms_nothing() {
    let datapath = node();
    let forged = Packet::tcp((EXTERNAL, 1000), (SERVER, 8080), SYN, b"");
    datapath.from_netdev(&forged).to_pod(&[]);
    let answer = Packet::tcp((SERVER, 8080), (EXTERNAL, 1000), SYN | ACK, b"");
    for _ in 0..3 {
        datapath.from_pod(SERVER_IFINDEX, &answer).to_uplink(&[]);
    }
    assert!(datapath.flows_in(map::FLOWS).is_empty());
    let reset = Packet::tcp((EXTERNAL, 1000), (SERVER, 8080), RST, b"");
    datapath.from_netdev(&reset).to_pod(&[]);
    assert!(datapath.flows_in(map::FLOWS).is_empty());
}
