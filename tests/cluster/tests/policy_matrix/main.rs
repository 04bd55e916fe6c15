//! NetworkPolicies: every pair of pods, port and protocol, by pod address, ClusterIP, and the NodePort of the own
//! and of the other node, and from a pod with the network of its node and a host outside, as the oracle says.
//!
//! `matrices/<name>.yaml` has the policies. The pods `web`, `db` and `api` of the namespaces `a` and `b`, which
//! have the label `team`, are on two nodes and serve TCP and UDP on the ports 8080 and 9090; `http` and `http-udp`
//! are the names of 8080 in `a` and of 9090 in `b`. Placeholders: `{{a}}`, `{{b}}`, `{{ip a/web}}` for the address of a
//! pod, `{{node 0}}` for that of a node, and `{{outside}}` for that of the host outside. The pod `host` of `b` has the
//! network of node 1 and the label `app: web`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

mod grid;
mod probe;

use std::time::Duration;

use cluster_tests::examples::{self, Connection};
use cluster_tests::{Namespace, eventually, kubectl, try_kubectl};
use sluice_core::model::Protocol;

use grid::Grid;
use probe::{Client, Probe, Via};

/// Time until a change acts, with the load of other tests.
const PROGRAMMED: Duration = Duration::from_secs(30);

#[test]
fn every_pair_of_pods_and_port_is_as_the_oracle_says() {
    let grid = Grid::new(["matrix-a", "matrix-b"].map(Namespace::new), 30_000);
    let mut shares = [0; 2];
    for name in [
        "default-deny",
        "namespaces-by-label",
        "egress-named-ports",
        "blocks-and-ranges",
        "no-peer-and-any-peer",
        "nodes",
        "clients",
    ] {
        grid.apply(name);
        let expected = grid.expected();
        for allowed in expected.values() {
            shares[usize::from(*allowed)] += 1;
        }
        grid.expect(name, &expected);
        grid.remove_policies();
    }
    assert!(shares.iter().all(|share| *share > 500), "denied, allowed: {shares:?}");
    let all_open = grid.expected();
    assert!(all_open.values().all(|allowed| *allowed));
    grid.expect("no policies", &all_open);
}

/// A namespace with a name of its own, which an earlier run may still be deleting.
fn ingress_controller() -> Namespace {
    let name = "ingress-nginx";
    eventually("the namespace", Duration::from_secs(60), || {
        try_kubectl(&["create", "namespace", name], "")
    });
    let namespace = Namespace { name: name.to_owned() };
    kubectl(&["label", "namespace", name, "purpose=monitoring"]);
    namespace
}

#[test]
fn examples_of_policies_allow_what_their_comments_say() {
    let grid = Grid::new([Namespace::new("examples"), ingress_controller()], 30_020);
    for (name, is_allowed) in examples::IN_GRID {
        grid.namespace("a").apply(&examples::manifest(name));
        let expected = grid.expected();
        for probe in grid.probes() {
            let Probe { client: Client::Pod(client), server, port, protocol, via } = probe else {
                continue;
            };
            if via != Via::Pod || protocol != Protocol::Tcp {
                continue;
            }
            let (from, to, app) = (client.namespace, server.namespace, server.app);
            let connection = Connection { from, to, app, port };
            assert_eq!(expected[&probe.key()], is_allowed(connection), "{name}: {}", probe.key());
        }
        grid.expect(name, &expected);
        grid.remove_policies();
    }
}
