//! Pods with a deletionTimestamp: their endpoints terminate before the EndpointSlice says so.

use std::collections::BTreeSet;

use netns_tests::manifest::{pod, service_with};
use netns_tests::{Host, eventually};

use crate::two_nodes;

const VIP: &str = "10.96.7.7";
const PORTS: [&str; 1] = ["tcp:80->8080"];

/// The EndpointSlice has both endpoints as ready throughout.
#[test]
fn pod_that_ends_gets_no_new_connection_while_another_is_ready() {
    let t = two_nodes();
    let pods = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let clients = [t.a.pod("default/near"), t.b.pod("default/far")];
    let _servers = [pods[0].serve("web-0", &["tcp:8080"]), pods[1].serve("web-1", &["tcp:8080"])];
    t.topology.apply("web", &service_with("web", VIP, &PORTS, &[&pods[0], &pods[1]]));
    let served_by = |expected: &[&str]| {
        let servers = |host: &Host| -> Result<BTreeSet<String>, String> {
            let exchanges = host.connect_times("tcp", &format!("{VIP}:80"), 30).into_iter();
            exchanges.map(|exchange| Ok(exchange?.0.server)).collect()
        };
        for (_, host) in clients.iter().flat_map(|client| client.both_paths()) {
            eventually(&format!("{expected:?}"), || match servers(&host) {
                Ok(servers) if servers.iter().eq(expected) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };
    served_by(&["web-0", "web-1"]);
    t.topology.apply("pod-0", &pod(&pods[0], true));
    served_by(&["web-1"]);
    // Both end: they serve as long as no other endpoint is ready.
    t.topology.apply("pod-1", &pod(&pods[1], true));
    served_by(&["web-0", "web-1"]);
    // A deleted Pod does not serve, although the EndpointSlice still has it as ready.
    t.topology.delete("pod-0");
    served_by(&["web-1"]);
}
