//! Times the programs for packets of established flows and for first packets, beside an empty program.
//! Prints one JSON object: per case the time above the empty program in nanoseconds, the median of the
//! rounds and the lowest and highest quartile.
//!
//! `packet-bench [RUNS]`, in a network namespace of its own; `cargo xtask bench packets` calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use std::os::fd::{AsFd, BorrowedFd};

use packet_tests::*;
use sluice_abi::{
    Frontend, PolicyDirection, PolicyPeerKey, PolicyPorts, ServicePort, SlotRange, frontend_flags,
    map, program, proto,
};
use sluice_bpf::test_run::{self, XdpAction};

/// Runs of each case.
const RUNS: u32 = 1_000_000;
/// The cases take turns this many times.
const ROUNDS: u32 = 50;
const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

/// Service ports of the cases "of 50,000".
const SERVICES: u32 = 50_000;
/// First packets of different clients: more than the tables of new flows keep.
const CLIENTS: u32 = 60_000;
const NODE_PORT: u16 = 30_080;

/// Tables of policies in the cases with policies.
const TABLES: u64 = 10_000;
/// Networks of clients, and how many addresses of them are used.
const REMOTE_PODS: ([u8; 2], u32) = ([10, 244], 2 * 256);
const OUTSIDE: ([u8; 2], u32) = ([198, 51], 100 * 256);

/// Frames for a program, which take turns.
struct Case {
    name: &'static str,
    program: &'static str,
    frames: Vec<Vec<u8>>,
    ifindex: u32,
}

fn main() {
    let runs = std::env::args().nth(1).map_or(RUNS, |n| n.parse().expect("[RUNS]"));
    let small = datapath(1);
    let large = datapath(SERVICES);
    let mut cases: Vec<_> = cases(&small).into_iter().map(|case| (&small, case)).collect();
    cases.extend(xdp_cases(&small).map(|case| (&small, case)));
    cases.push((&large, first_packets("first packet, XDP, of 50,000 Services")));
    let isolated = isolated();
    cases.push((&small, first_to_pod("first packet, other node to pod", REMOTE_PODS)));
    cases.push((&isolated, first_to_pod("the same, isolated, one of 10,000 tables", REMOTE_PODS)));
    cases.push((&small, first_to_pod("first packet, outside to pod", OUTSIDE)));
    cases.push((&isolated, first_to_pod("the same, isolated, by a block", OUTSIDE)));
    let name = "pod to pod on the node, both isolated";
    cases.push((&isolated, established(name, connect(&isolated, 40_001, (SERVER, 8080)))));
    if let Some(only) = std::env::args().nth(2) {
        cases.retain(|(_, case)| case.name.contains(&only));
    }
    let empty = empty_program::load().unwrap();
    let empty_xdp = empty_program::load_xdp().unwrap();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let each = (runs / ROUNDS / 2).max(1);
    for round in 0..ROUNDS {
        for ((datapath, case), times) in cases.iter().zip(&mut rounds) {
            // A first packet of the round before would be one of a known flow.
            let skipped = (round * each * 2) as usize;
            let empty = if case.is_xdp() { &empty_xdp } else { &empty };
            // Before and after: a change of the processor's clock affects both.
            let before = mean(empty.as_fd(), case, skipped, each);
            let ours = mean(datapath.fd(case.program), case, skipped, each * 2);
            let after = mean(empty.as_fd(), case, skipped, each);
            times.push(ours - f64::midpoint(before, after));
        }
    }
    let figures = cases.iter().zip(&mut rounds).map(|((_, case), times)| {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[(times.len() - 1) * share / 4];
        format!(
            r#"{{"case":"{}","program":"{}","median_ns":{:.1},"low_ns":{:.1},"high_ns":{:.1}}}"#,
            case.name,
            case.program,
            at(2),
            at(1),
            at(3)
        )
    });
    println!("[{}]", figures.collect::<Vec<_>>().join(","));
}

/// The node with this number of Service ports: a ClusterIP with an endpoint on the node, a NodePort
/// with one on another node, and others that no packet is addressed to.
fn datapath(services: u32) -> Datapath {
    let options = Options { services: Some(services + 1000), ..Options::default() };
    let mut datapath = Datapath::load_with(options);
    datapath.configure_node();
    // As with the kernel's defaults, without the few above them.
    datapath.snat_ports(1024, 29_999);
    // Known policies: none.
    datapath.rejudge(CLIENT);
    datapath.rejudge(SERVER);
    datapath.use_xdp();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let far = Sets { cluster: vec![(FAR_POD, 8080)], ..Sets::default() };
    datapath.service_port(8, proto::TCP, &far);
    let frontend = Frontend { service: 8, flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], NODE_PORT, proto::TCP), frontend);
    for service in 1000..999 + services {
        let [_, _, high, low] = service.to_be_bytes();
        datapath.backend(service, ([10, 244, 3, low], 8080, proto::TCP));
        datapath.map(map::SLOTS).update(&service, &service).unwrap();
        let cluster = SlotRange { offset: service, len: 1 };
        let port = ServicePort { cluster, ..ServicePort::default() };
        datapath.map(map::SERVICES).update(&service, &port).unwrap();
        datapath.frontend(([10, 97, high, low], 80, proto::TCP), Frontend { service, flags: 0 });
    }
    datapath
}

/// The node with pods that are isolated in both directions, and tables of other pods.
fn isolated() -> Datapath {
    let datapath = datapath(1);
    let web = PolicyPorts::range(proto::TCP, 8080, 8080);
    for table in 0..TABLES {
        let key = PolicyPeerKey { table: 1 << 60 | table, class: 1 };
        datapath.map(map::POLICY_PEERS).update(&key, &web).unwrap();
    }
    for address in [CLIENT, SERVER] {
        datapath.class(address, Some(1));
    }
    for last in 0..=255 {
        datapath.class([10, 244, 2, last], Some(1));
    }
    datapath.network_class([198, 51, 0, 0], 16, 1);
    for pod in [CLIENT, SERVER] {
        for direction in PolicyDirection::ALL {
            datapath.isolate(pod, direction, &[(1, web)], PolicyPorts::NONE);
        }
    }
    datapath
}

impl Case {
    fn is_xdp(&self) -> bool {
        self.program == program::XDP_NETDEV
    }
}

/// Mean time of single runs, each over a fresh copy of a frame: a program changes the packet, so that
/// repeated runs over one copy would measure other packets. The first `skipped` frames have had their turn.
fn mean(program: BorrowedFd<'_>, case: &Case, skipped: usize, runs: u32) -> f64 {
    let mut total = 0;
    let frames = case.frames.iter().cycle().skip(skipped % case.frames.len());
    for frame in frames.take(runs as usize) {
        let time = if case.is_xdp() {
            test_run::run_xdp(program, frame, case.ifindex, 1).unwrap().time
        } else {
            test_run::run(program, frame, case.ifindex, 0, 1).unwrap().time
        };
        total += time.as_nanos();
    }
    total as f64 / f64::from(runs)
}

/// Packets of external clients to a NodePort with an endpoint on another node.
fn xdp_cases(datapath: &Datapath) -> [Case; 3] {
    let (client, node) = ((EXTERNAL, 5000), (NODE, NODE_PORT));
    let sent = |packet: &Packet| {
        let run = datapath.xdp(UPLINK_IFINDEX, &packet.bytes_from_wire());
        assert_eq!(run.action, XdpAction::Tx);
        Packet::read(&run.data).unwrap()
    };
    let syn = sent(&Packet::tcp(client, node, SYN, b""));
    let reply = |flags| Packet::tcp((FAR_POD, 8080), (NODE, syn.sport()), flags, b"x");
    let request = Packet::tcp(client, node, ACK, b"x");
    sent(&reply(SYN_ACK));
    sent(&request);
    let case = |name, packet: Packet| Case {
        name,
        program: program::XDP_NETDEV,
        frames: vec![packet.bytes_from_wire()],
        ifindex: UPLINK_IFINDEX,
    };
    [
        case("external client to NodePort, backend on another node, XDP", request),
        case("reply of that backend, XDP", reply(ACK)),
        first_packets("first packet, XDP, of one Service"),
    ]
}

/// The first packets of many clients.
fn first_packets(name: &'static str) -> Case {
    let frame = |n: u32| {
        let [_, _, high, low] = (n / 6).to_be_bytes();
        let client = ([198, 51, high, low], 10_000 + (n % 6) as u16);
        Packet::tcp(client, (NODE, NODE_PORT), SYN, b"").bytes_from_wire()
    };
    Case {
        name,
        program: program::XDP_NETDEV,
        frames: (0..CLIENTS).map(frame).collect(),
        ifindex: UPLINK_IFINDEX,
    }
}

/// The first packets of many clients of a network to a pod.
fn first_to_pod(name: &'static str, ([a, b], first): ([u8; 2], u32)) -> Case {
    let frame = |n: u32| {
        let [_, _, c, d] = (first + n % 250).to_be_bytes();
        let client = ([a, b, c, d], 10_000 + (n / 250) as u16);
        Packet::tcp(client, (SERVER, 8080), SYN, b"").bytes_from_wire()
    };
    Case {
        name,
        program: program::FROM_NETDEV,
        frames: (0..CLIENTS).map(frame).collect(),
        ifindex: UPLINK_IFINDEX,
    }
}

/// A packet of a pod's flow.
fn established(name: &'static str, packet: Packet) -> Case {
    Case {
        name,
        program: program::FROM_POD,
        frames: vec![packet.bytes_from_pod(CLIENT_IFINDEX)],
        ifindex: CLIENT_IFINDEX,
    }
}

/// Opens the flows, and returns a packet of each.
fn cases(datapath: &Datapath) -> Vec<Case> {
    let far = ([10, 244, 2, 20], 8080);
    let near = (SERVER, 8080);
    let local = connect(datapath, 40_001, near);
    let remote = connect(datapath, 40_002, far);
    let service = connect(datapath, 40_003, (VIP, 80));
    let outside = connect(datapath, 40_004, (EXTERNAL, 443));
    let reply = Packet::tcp(far, (CLIENT, 40_002), ACK, b"x");
    vec![
        established("pod to pod on the node", local),
        established("pod to pod on another node", remote),
        established("pod to Service, backend on the node", service),
        established("pod to the outside, masqueraded", outside),
        Case {
            name: "other node to pod",
            program: program::FROM_NETDEV,
            frames: vec![reply.bytes_from_wire()],
            ifindex: UPLINK_IFINDEX,
        },
    ]
}

/// Opens a TCP connection from `CLIENT` and returns a later segment of it.
fn connect(datapath: &Datapath, port: u16, to: ([u8; 4], u16)) -> Packet {
    let from = (CLIENT, port);
    let ack = Packet::tcp(from, to, ACK, b"x");
    let syn = accept_any(datapath.from_pod(CLIENT_IFINDEX, &Packet::tcp(from, to, SYN, b"")));
    // The answer belongs to the tuple after translation.
    let (client, server) = ((syn.src, syn.sport()), (syn.dst, syn.dport()));
    let answer = Packet::tcp(server, client, SYN_ACK, b"");
    if server.0 == SERVER {
        accept_any(datapath.from_pod(SERVER_IFINDEX, &answer));
    } else {
        accept_any(datapath.from_netdev(&answer));
    }
    accept_any(datapath.from_pod(CLIENT_IFINDEX, &ack));
    ack
}

/// The packet that a program delivered.
fn accept_any(run: Run) -> Packet {
    let labels: Vec<_> = run.counters.keys().copied().collect();
    run.counted(&labels);
    assert_eq!(run.action, Action::Redirect, "{labels:?}");
    run.packet()
}
