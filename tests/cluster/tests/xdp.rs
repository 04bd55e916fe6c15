//! XDP on the nodes of the cluster. The agents restart with another flag, which disturbs other tests:
//! this file runs alone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::time::Duration;

use cluster_tests::{
    ChangedAgents, Namespace, Node, OutsideHost, docker, eventually, rollout, server_on, sluice,
    workers,
};
use serde_json::{Value, json};

/// Requests of the client, each on a connection of its own; one is about ten packets.
const REQUESTS: usize = 300;

/// A device of a container completes the checksums of what it sends, as hardware does: XDP cannot do
/// that, and passes packets without them to tc.
struct Checksums(String);

impl Checksums {
    fn complete(container: &str) -> Checksums {
        docker(&["exec", container, "ethtool", "-K", "eth0", "tx", "off"]).unwrap();
        Checksums(container.to_owned())
    }
}

impl Drop for Checksums {
    fn drop(&mut self) {
        if let Err(e) = docker(&["exec", &self.0, "ethtool", "-K", "eth0", "tx", "on"]) {
            eprintln!("checksum offload of {} not restored: {e}", self.0);
        }
    }
}

/// Packets that a node has sent by XDP, and by tc.
fn sent(node: &Node) -> [u64; 2] {
    let status: Value =
        serde_json::from_str(&sluice(node, &["status", "-o", "json"]).unwrap()).unwrap();
    let counters = status["counters"].as_array().unwrap();
    ["to_uplink_by_xdp", "to_uplink"].map(|outcome| {
        let row = counters.iter().find(|row| row["label"] == outcome);
        row.unwrap_or_else(|| panic!("no counter {outcome}"))["packets"].as_u64().unwrap()
    })
}

#[test]
fn node_port_packets_to_remote_endpoints_leave_by_xdp() {
    let workers = workers();
    let (entry, far) = (&workers[0], &workers[1]);
    let _agents = ChangedAgents::new(ChangedAgents::COMMAND, |command| {
        command.as_array_mut().unwrap().push(json!("--xdp=generic"));
    });
    rollout("sluice-system", "daemonset/sluice");
    eventually("generic XDP", Duration::from_secs(30), || {
        let status = sluice(entry, &["status"])?;
        if status.contains("XDP generic") { Ok(()) } else { Err(status) }
    });
    let ns = Namespace::new("xdp");
    ns.apply(&server_on("web", "web", &far.name));
    ns.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  \
         selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n",
    );
    ns.ready("web", 1);
    let port = ns.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let outside = OutsideHost::start();
    let _client = Checksums::complete(outside.name());
    let _server = Checksums::complete(&far.name);
    let url = format!("http://{}:{port}/hostname", entry.address);
    let request = |script: &str| docker(&["exec", outside.name(), "sh", "-c", script]);
    eventually("the NodePort", Duration::from_secs(20), || {
        request(&format!("curl -sf -m 3 {url}"))
    });

    // Packets of the node itself are not counted as forwarded; those of its other pods are, by tc.
    let measured: [[u64; 2]; 3] = std::array::from_fn(|_| measure(entry, &request, &url));
    println!("packets by XDP and by tc: {measured:?}");
    let holds = |[by_xdp, by_tc]: &&[u64; 2]| *by_xdp > 2000 && by_tc * 99 <= *by_xdp;
    assert!(measured.iter().filter(holds).count() >= 2, "packets by XDP and by tc: {measured:?}");
}

/// Packets that leave the node by XDP and by tc while a client sends its requests.
fn measure(entry: &Node, request: &impl Fn(&str) -> Result<String, String>, url: &str) -> [u64; 2] {
    let before = sent(entry);
    // One process, so that few packets of other pods of the node are counted with these.
    let script = format!(
        "curl -sf -m 60 -H 'Connection: close' -w '\\n' '{url}?n=[1-{REQUESTS}]' | sort | uniq -c"
    );
    let counted = request(&script).unwrap();
    assert_eq!(counted.split_whitespace().collect::<Vec<_>>(), [&REQUESTS.to_string(), "web"]);
    let after = sent(entry);
    [0, 1].map(|n| after[n] - before[n])
}
