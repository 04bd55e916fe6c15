//! Times the programs for packets of established flows, and XDP for first packets, beside an empty program. Prints one JSON
//! object: per case the time above the empty program in nanoseconds, the median of the rounds and
//! the lowest and highest quartile.
//!
//! `packet-bench [RUNS]`, in a network namespace of its own; `cargo xtask bench packets` calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use std::os::fd::{AsFd, BorrowedFd};

use packet_tests::*;
use sluice_abi::{program, proto};
use sluice_bpf::test_run;

/// Runs of each case.
const RUNS: u32 = 1_000_000;
/// The cases take turns this many times.
const ROUNDS: u32 = 50;
const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

/// A frame for a program.
struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    ifindex: u32,
}

fn main() {
    let runs = std::env::args().nth(1).map_or(RUNS, |n| n.parse().expect("[RUNS]"));
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let cases = cases(&datapath);
    let empty = empty_program::load().unwrap();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut rounds) {
            let each = (runs / ROUNDS / 2).max(1);
            // Before and after: a change of the processor's clock affects both.
            let before = mean(empty.as_fd(), case, each);
            let ours = mean(datapath.fd(case.program), case, each * 2);
            let after = mean(empty.as_fd(), case, each);
            times.push(ours - f64::midpoint(before, after));
        }
    }
    let figures = cases.iter().zip(&mut rounds).map(|(case, times)| {
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

/// Mean time of single runs, each over a fresh copy of the frame: a program changes the packet, so
/// that repeated runs over one copy would measure other packets.
fn mean(program: BorrowedFd<'_>, case: &Case, runs: u32) -> f64 {
    let mut total = 0;
    for _ in 0..runs {
        let run = test_run::run(program, &case.frame, case.ifindex, 0, 1).unwrap();
        total += run.time.as_nanos();
    }
    total as f64 / f64::from(runs)
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
    let from_pod = |name, packet: Packet| Case {
        name,
        program: program::FROM_POD,
        frame: packet.bytes_from_pod(CLIENT_IFINDEX),
        ifindex: CLIENT_IFINDEX,
    };
    vec![
        from_pod("pod to pod on the node", local),
        from_pod("pod to pod on another node", remote),
        from_pod("pod to Service, backend on the node", service),
        from_pod("pod to the outside, masqueraded", outside),
        Case {
            name: "other node to pod",
            program: program::FROM_NETDEV,
            frame: reply.bytes_from_wire(),
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
