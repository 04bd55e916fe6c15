//! Pods after ADD, and pods with a deletionTimestamp: their endpoints terminate before the EndpointSlice says so.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use netns_tests::manifest::{pod, service_with};
use netns_tests::{Host, eventually, ip_json};

use crate::{two_nodes, two_nodes_with_open_pods};

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

/// A device drops what it sends until the kernel has activated its queue, which it does some time after both ends
/// of the pair are up.
#[test]
fn packet_to_a_pod_right_after_add_is_not_lost() {
    const PODS: usize = 40;
    let t = two_nodes_with_open_pods();
    let socket = t.a.namespaces.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let mut pods = Vec::new();
    for n in 0..PODS {
        let pod = t.a.pod(&format!("default/pod-{n}"));
        socket.send_to(b"data", (pod.address, 9)).unwrap();
        pods.push(pod);
    }
    let links = ip_json(&t.a.namespaces, "-s link show");
    let of_pods = links.iter().filter(|link| link["ifname"].as_str().unwrap().starts_with("slc"));
    let sent = of_pods.map(|link| {
        let sent = &link["stats64"]["tx"];
        (sent["packets"].as_u64(), sent["dropped"].as_u64())
    });
    assert_eq!(sent.collect::<Vec<_>>(), [(Some(1), Some(0)); PODS]);
}
