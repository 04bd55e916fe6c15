//! `sluice drops --all-nodes` as an operator uses it: with a kubeconfig, outside of the cluster. Agents lose events
//! while other tests have many packets dropped: this file runs alone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::process::Command;
use std::time::{Duration, SystemTime};

use cluster_tests::process::{self, Lines};
use cluster_tests::{Namespace, eventually, server_on, workers};
use serde_json::Value;

/// Time until a change acts, and until a line comes that is not measured.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest time from a dropped packet to its line.
const WITHIN: Duration = Duration::from_secs(1);
/// Attempts to measure it.
const ATTEMPTS: usize = 3;

const DENY_ALL: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// Sends eight datagrams, each from another port, and prints the port of each and when it was sent, in nanoseconds
/// since 1970. Their distances of 370 ms have eight phases of what is done every 100 or 500 ms, or every second.
/// Argument: the destination's address.
const PROGRAM: &str = "\
import socket, sys, time
sockets = []
for _ in range(8):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.connect((sys.argv[1], 8080))
    sent = time.time_ns()
    s.send(b'attempt')
    print(s.getsockname()[1], sent)
    sockets.append(s)
    time.sleep(0.37)
";

/// The pods `one` and `two` on two nodes, which a policy closes.
struct Pods {
    ns: Namespace,
    nodes: [String; 2],
}

impl Pods {
    fn start() -> Pods {
        let ns = Namespace::new("drops");
        let workers = workers();
        let nodes = [0, 1].map(|at| workers[at].name.clone());
        let manifests = ["one", "two"].iter().zip(&nodes);
        let manifests = manifests.map(|(name, node)| server_on(name, name, node));
        ns.apply(&(manifests.collect::<String>() + "---" + DENY_ALL));
        ["one", "two"].iter().for_each(|name| drop(ns.ready(name, 1)));
        Pods { ns, nodes }
    }

    /// Waits until the agents of both nodes have rows of a packet to their pod.
    fn wait_dropped(&self) {
        eventually("drops on both nodes", DEADLINE, || {
            for (client, server) in [("one", "two"), ("two", "one")] {
                let address = self.ns.pod_ip(server);
                self.ns
                    .exec(client, &format!("/agnhost connect --timeout=300ms {address}:8080"))?;
            }
            let mut command = sluice(&["drops", "--all-nodes", "-o", "json", "policy_ingress"]);
            let finished = process::run(&mut command, "", DEADLINE)?;
            if finished.code != Some(0) {
                return Err(finished.stderr);
            }
            let rows: Vec<Value> =
                serde_json::from_str(&finished.stdout).map_err(|e| e.to_string())?;
            let directions = [["one", "two"], ["two", "one"]];
            if directions.iter().all(|ends| rows.iter().any(|row| self.is_row(row, *ends))) {
                return Ok(());
            }
            Err(format!("not on both nodes: {rows:?}"))
        });
    }

    /// Whether a row is that of a packet from one pod to the other one, with the node, both ends and the policy.
    fn is_row(&self, row: &Value, [client, server]: [&str; 2]) -> bool {
        let pod = |end: &Value, name: &str| {
            end[0]["pod"] == format!("{}/{name}", self.ns.name) && end[0]["labels"]["app"] == name
        };
        row["node"] == self.nodes[usize::from(server == "two")]
            && row["reason"] == "policy_ingress"
            && pod(&row["sourcePods"], client)
            && pod(&row["destinationPods"], server)
            && row["policies"] == Value::from(vec![format!("{}/closed", self.ns.name)])
    }

    /// Has eight datagrams dropped; returns the longest time from one to its line.
    fn longest_time(&self, lines: &Lines) -> Result<Duration, String> {
        let address = self.ns.pod_ip("two");
        let sent = self.ns.sh("one", &format!("python3 -ISc \"{PROGRAM}\" {address}"))?;
        let mut longest = Duration::ZERO;
        for line in sent.lines() {
            let (port, sent) = line.split_once(' ').ok_or(line)?;
            let (port, sent): (u16, u64) = (port.parse().unwrap(), sent.parse().unwrap());
            let sent = SystemTime::UNIX_EPOCH + Duration::from_nanos(sent);
            let is_own = |line: &str| {
                let row: Value = serde_json::from_str(line).unwrap();
                row["sourcePort"] == port && row["protocol"] == "UDP"
            };
            let (at, line) = lines
                .find(DEADLINE, is_own)
                .ok_or_else(|| format!("no line of port {port}, sent at {sent:?}"))?;
            assert!(self.is_row(&serde_json::from_str(&line).unwrap(), ["one", "two"]), "{line}");
            longest = longest.max(at.duration_since(sent).map_err(|e| e.to_string())?);
        }
        Ok(longest)
    }
}

fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("SLUICE_BINARY").expect("SLUICE_BINARY"));
    command.args(arguments);
    command
}

#[test]
fn drops_of_all_nodes_have_the_pods_of_both_ends_and_the_policy() {
    Pods::start().wait_dropped();
}

/// The pods, the agents and this test read one clock. The best of three attempts counts: a machine that stalls for
/// the third of a second that is left delays all lines of an attempt, and says nothing about the agent and the
/// command. If they read too seldom, one of the eight lines of each attempt is late.
#[test]
fn line_of_a_dropped_packet_comes_within_a_second() {
    let pods = Pods::start();
    pods.wait_dropped();
    let command = ["drops", "--all-nodes", "--follow", "-o", "json"];
    let lines = Lines::start(&mut sluice(&command)).unwrap();
    // The agents have been found when the drops come that they have kept.
    let is_kept = |line: &str| pods.is_row(&serde_json::from_str(line).unwrap(), ["one", "two"]);
    assert!(lines.find(DEADLINE, is_kept).is_some(), "no line of a drop that was kept");
    let mut attempts = Vec::new();
    while attempts.len() < ATTEMPTS {
        let longest = pods.longest_time(&lines);
        if longest.as_ref().is_ok_and(|longest| *longest <= WITHIN) {
            return;
        }
        attempts.push(longest);
    }
    panic!("longest time of eight lines, in {ATTEMPTS} attempts: {attempts:?}");
}
