//! Nodes with their agents, pods with interfaces from the CNI binary, and traffic between them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod api_server;
mod bandwidth;
mod cases;
mod cli;
mod default_deny;
mod devices;
mod external;
mod growth;
mod health_checks;
mod host_ports;
mod leases;
mod limits;
mod node_changes;
mod packets;
mod pods;
mod policies;
mod policy_growth;
mod policy_upgrades;
mod reach;
mod readiness;
mod repairs;
mod restarts;
mod service_changes;
mod services;
mod stops;
mod traffic;
mod unreachable;
mod upgrades;
mod xdp;

use netns_tests::manifest::namespace;
use netns_tests::{Agent, Node, Topology, TopologyOptions, agents};

/// A topology with two nodes whose agents are ready.
struct TwoNodes {
    a: Node,
    b: Node,
    _agents: [Agent; 2],
    topology: Topology,
}

fn two_nodes_in(topology: Topology) -> TwoNodes {
    let (a, b) = (topology.node(1), topology.node(2));
    let agents = agents([(&a, &[]), (&b, &[])]);
    TwoNodes { a, b, _agents: agents, topology }
}

/// Two nodes, the first one with XDP on its uplink.
fn two_nodes_with_xdp() -> TwoNodes {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let agents = agents([(&a, &["--xdp=generic"]), (&b, &[])]);
    TwoNodes { a, b, _agents: agents, topology }
}

fn two_nodes() -> TwoNodes {
    two_nodes_in(Topology::new())
}

/// Two nodes and the Namespace of the pods, which are open from their first packet then.
fn two_nodes_with_open_pods() -> TwoNodes {
    let topology = Topology::new();
    topology.apply("default", &namespace("default", &[]));
    two_nodes_in(topology)
}

/// Two nodes, and routers that send the pod and Service ranges to them.
fn two_nodes_with_cluster_routes() -> TwoNodes {
    two_nodes_in(Topology::with(TopologyOptions {
        cluster_routes: true,
        ..TopologyOptions::default()
    }))
}
