//! Agents that get SIGTERM while they load their programs. Kubelet waits for 5 s.

use std::fs;
use std::path::Path;
use std::time::Duration;

use netns_tests::{Agent, CONF_FILE, Topology, agents, dataplane};
use sluice_abi::pin;

use crate::traffic::{Traffic, drops, short_pod};

/// What an agent logs before the kernel verifies its programs.
pub const VERIFYING: &str = "programs are being verified";
/// Longest time until an agent has ended.
pub const ENDS_WITHIN: Duration = Duration::from_secs(2);

fn stop_while_it_loads(agent: Agent) {
    let log = agent.terminate_at(&[VERIFYING], ENDS_WITHIN);
    assert!(log.contains("stopped before the programs were loaded"), "{log}");
    assert!(!log.contains("programs_verified="), "{log}");
}

#[test]
fn first_agent_that_is_stopped_while_it_loads_leaves_nothing_attached_and_the_next_one_starts() {
    let topology = Topology::new();
    let node = topology.node(1);
    stop_while_it_loads(node.agent_not_ready(&[]));
    assert_eq!(dataplane::programs(&node, "eth0"), (vec![], vec![]));
    assert!(dataplane::socket_programs(&node).is_empty() && !node.exists(CONF_FILE));
    let programs = node.namespaces.run(|| fs::read_dir(pin::PROGRAMS).unwrap().count());
    assert_eq!(programs, 0, "pinned programs");
    // Maps that it left have the capacity of the next one's.
    let agent = node.agent();
    let log = agent.log_of_this();
    assert!(!log.contains("replaced") && !log.contains("taken over"), "{log}");
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _server = web.serve("web", &["tcp:8080"]);
    assert!(client.connect("tcp", &web.at(8080)).is_ok());
}

#[test]
fn agent_that_is_stopped_while_it_loads_leaves_the_former_programs_and_the_next_one_loads() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    for number in 0..2 {
        let before = dataplane::pins(&a);
        agent.kill();
        // Without the record of the last load, programs are verified again.
        a.namespaces.run(|| fs::remove_file(Path::new(pin::ROOT).join(pin::LOADED)).unwrap());
        stop_while_it_loads(a.agent_not_ready(&[]));
        assert_eq!(dataplane::pins(&a), before);
        short_pod(&a, &traffic.far.at(8080), number);
        agent = a.agent();
        assert!(agent.log_of_this().contains(VERIFYING));
        assert_eq!(dataplane::pins(&a), before);
    }
    traffic.finish();
    assert_eq!(drops(&a), []);
}
