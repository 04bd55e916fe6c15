//! Pods in a namespace with default deny, from before they have an interface.

use netns_tests::manifest::{namespace, pod_with_labels};
use netns_tests::peer::SprayReport;
use netns_tests::{Host, OUTSIDE, Pod, Topology, dataplane, eventually};
use sluice_abi::DropReason;

use crate::policies::deny_all;

/// Pods that run at a time.
const WAVE: usize = 60;
/// Port of the attempts.
const PORT: u16 = 9;

/// `SLUICE_PODS` sets the number of pods: 1,000 take some minutes.
fn pods() -> usize {
    std::env::var("SLUICE_PODS").map_or(WAVE, |n| n.parse().expect("SLUICE_PODS is a number"))
}

/// CONTRACT 8.16: pods in a namespace with default deny send and receive nothing, whenever they begin, while
/// agents come and go. They send from before they have an interface, as an init container can.
#[test]
fn sixty_pods_under_default_deny_send_and_receive_nothing() {
    let topology = Topology::new();
    let node = topology.node(1);
    topology.apply("ns-open", &namespace("open", &[]));
    topology.apply("ns-closed", &namespace("closed", &[]));
    topology.apply("policy", &deny_all("closed"));
    let mut agent = Some(node.agent());
    let server = node.pod("open/server");
    let _process = server.serve("server", &["tcp:8080"]);
    topology.apply("server", &pod_with_labels(&server, &[]));
    let folder = tempfile::tempdir().unwrap();
    let captured = [
        (OUTSIDE, topology.outside.capture("eth0", &folder.path().join("outside"))),
        (server.address, server.capture("eth0", &folder.path().join("server"))),
    ];
    let (mut restarts, mut sent) = (0, SprayReport::default());
    let mut wave: Vec<Pod> = Vec::new();
    for n in 0..pods() {
        if wave.len() == WAVE {
            for (at, pod) in wave.drain(..).enumerate() {
                topology.delete(&format!("pod-{at}"));
                node.cni("DEL", &pod.sandbox).ok();
            }
        }
        let egress = dataplane::dropped(&node, DropReason::PolicyEgress);
        let sandbox = node.sandbox(&format!("closed/pod-{n}"));
        let early = Host::of(&sandbox.namespaces);
        let sprays = [
            early.spray(PORT, &format!("{OUTSIDE}:{PORT}"), &format!("{OUTSIDE}:80")),
            early.spray(PORT + 1, &server.at(PORT), &server.at(8080)),
        ];
        let pod = node.pod_of(&sandbox, node.cni("ADD", &sandbox).ok());
        topology.apply(&format!("pod-{}", wave.len()), &pod_with_labels(&pod, &[]));
        let quick = ["--deadline-ms", "30"];
        assert!(pod.connect_with("tcp", &server.at(8080), &quick)[0].is_err());
        // The pod's row may be there or not.
        assert!(server.connect_with("tcp", &pod.at(8080), &quick)[0].is_err());
        match n % 6 {
            // Its policies are known at last, and it stays closed.
            5 => eventually("a drop by policy", || {
                let dropped = dataplane::dropped(&node, DropReason::PolicyEgress);
                if dropped > egress { Ok(()) } else { Err(format!("{dropped} drops")) }
            }),
            0 => agent.take().expect("an agent").kill(),
            3 => {
                agent = Some(node.agent());
                restarts += 1;
            }
            _ => {}
        }
        for spray in sprays {
            let report: SprayReport = spray.finish();
            assert!(report.least() > 0, "pod {n}: {report:?}");
            sent.same_socket += report.same_socket;
            sent.new_sockets += report.new_sockets;
            sent.connections += report.connections;
        }
        wave.push(pod);
    }
    println!("    {} pods, {restarts} restarts of the agent, sent: {sent:?}", pods());
    for (address, capture) in captured {
        assert_eq!(capture.count_to(address), 0, "packets to {address}");
    }
    assert!(dataplane::dropped(&node, DropReason::PolicyPending) > 0);
}
