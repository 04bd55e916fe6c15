//! Nodes with the real agent, pods wired by the real CNI binary, traffic between them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod command_line;
mod host_ports;
mod nodes;
mod packets;
mod pods;
mod restarts;
mod services;

use netns_tests::{Agent, Node, World};

/// Two nodes whose agents are ready.
struct Two {
    a: Node,
    b: Node,
    _agents: [Agent; 2],
    world: World,
}

/// Makes them in `world`.
fn two_in(world: World) -> Two {
    let (a, b) = (world.node(1), world.node(2));
    let agents = [a.agent(), b.agent()];
    Two { a, b, _agents: agents, world }
}

fn two() -> Two {
    two_in(World::new())
}
