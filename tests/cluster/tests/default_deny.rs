//! Pods under default deny that try to send and to receive from their first instruction, while agents are
//! killed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use cluster_tests::{
    AGNHOST, Arrivals, KilledAgents, Namespace, Node, OutsideHost, dropped, eventually, nodes,
    service, sluice,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// Most isolated pods at a time. kubelet runs at most 110 on a node.
const AT_A_TIME: usize = 50;
/// Port to which isolated pods send.
const DENIED: u16 = 7000;
/// Port to which the pods send that a policy allows everything.
const ALLOWED: u16 = 7001;
/// Port to which the peers of both send; these pods listen there.
const OF_PODS: u16 = 7002;
/// Ports of peers to which their Service translates [`DENIED`] and [`ALLOWED`].
const DENIED_BY_SERVICE: u16 = 7100;
const ALLOWED_BY_SERVICE: u16 = 7101;
const OF_SERVICE: [(&str, &str, u16, &str); 4] = [
    ("denied-tcp", "TCP", DENIED, "7100"),
    ("denied-udp", "UDP", DENIED, "7100"),
    ("allowed-tcp", "TCP", ALLOWED, "7101"),
    ("allowed-udp", "UDP", ALLOWED, "7101"),
];
/// Rounds of attempts of a pod's containers.
const ROUNDS: [usize; 2] = [25, 75];
/// Time between rounds of pods.
const PAUSE: Duration = Duration::from_millis(40);
/// Time between rounds of peers, which are attempts to reach every address of the pods' ranges.
const PAUSE_OF_PEERS: Duration = Duration::from_millis(500);

/// Listens, and sends a datagram and opens a connection to each address, round after round. Arguments: own
/// port, destination port, rounds, milliseconds between them, whether the rounds count only after others have
/// reached this pod, addresses. Its last words are the counters of the pod's kernel since the pod exists.
const PROGRAM: &str = "\
import socket, sys, time
own, port, rounds, pause, after_reached = map(int, sys.argv[1:6])
def counter(protocol, name):
    names, values = [line.split() for line in open('/proc/net/snmp') if line.startswith(protocol + ': ')]
    return int(values[names.index(name)])
def reached():
    return counter('Udp', 'InDatagrams') > 0 and counter('Tcp', 'PassiveOpens') > 0
def opened(kind):
    s = socket.socket(type=kind)
    s.setblocking(False)
    return s
datagrams, listener = opened(socket.SOCK_DGRAM), opened(socket.SOCK_STREAM)
datagrams.bind(('', own))
listener.bind(('', own))
listener.listen(4096)
done, connections = 0, []
while done < rounds:
    for s in connections:
        s.close()
    connections = []
    for address in sys.argv[6:]:
        try:
            datagrams.sendto(b'attempt', (address, port))
        except OSError:
            pass
        connections.append(opened(socket.SOCK_STREAM))
        connections[-1].connect_ex((address, port))
    time.sleep(pause / 1000)
    try:
        while datagrams.recv(100):
            pass
    except OSError:
        pass
    done += not after_reached or reached()
open('/dev/termination-log', 'w').write(
    '{\"sent\": %d, \"received\": %d, \"datagrams\": %d, \"connections\": %d}' % (
        counter('Ip', 'OutRequests'), counter('Ip', 'InReceives'),
        counter('Udp', 'InDatagrams'), counter('Tcp', 'PassiveOpens')))
";

const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: allowed}}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
  egress: [{}]
";

/// The last words of [`PROGRAM`]: IP packets of both directions, datagrams and connections of others.
#[derive(Debug, Deserialize)]
struct Report {
    sent: u64,
    received: u64,
    datagrams: u64,
    connections: u64,
}

/// A pod that has ended.
struct Ended {
    node: String,
    /// Of the init container and of the main one.
    reports: [Report; 2],
}

/// `SLUICE_PODS` sets the number of isolated pods: 1,000 take a quarter of an hour.
fn pods() -> usize {
    std::env::var("SLUICE_PODS").map_or(60, |n| n.parse().expect("SLUICE_PODS is a number"))
}

/// The arguments of [`PROGRAM`].
struct Attempts<'a> {
    own: u16,
    to: u16,
    rounds: usize,
    pause: Duration,
    after_reached: bool,
    addresses: &'a [String],
}

impl Attempts<'_> {
    fn container(&self, name: &str) -> Value {
        let Attempts { own, to, rounds, pause, after_reached, addresses } = self;
        let (pause, after_reached) = (pause.as_millis(), u8::from(*after_reached));
        let numbers = format!("{own} {to} {rounds} {pause} {after_reached}");
        let words = ["python3", "-ISc", PROGRAM].into_iter().chain(numbers.split(' '));
        let command: Vec<&str> = words.chain(addresses.iter().map(String::as_str)).collect();
        json!({"name": name, "image": AGNHOST, "imagePullPolicy": "IfNotPresent", "command": command})
    }
}

/// Pods that try to reach every pod of the cluster: one in the pod network of each node, and one in the network
/// of each node, which does not try its own pods, as policies do not apply to what these receive from it.
fn peers(nodes: &[Node]) -> String {
    let pod = |(at, node): (usize, &Node), in_node: bool| {
        let tried = nodes.iter().filter(|other| !in_node || other.name != node.name);
        let addresses: Vec<String> = tried
            .flat_map(|node| node.pod_cidr.unwrap().hosts().map(|address| address.to_string()))
            .collect();
        let (own, to, rounds) = (ALLOWED, OF_PODS, usize::MAX);
        let pause = PAUSE_OF_PEERS;
        let attempts =
            Attempts { own, to, rounds, pause, after_reached: false, addresses: &addresses };
        let app = if in_node { "node" } else { "peer" };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{app}-{at}"), "labels": {"app": app}},
            "spec": {
                "nodeName": node.name, "hostNetwork": in_node,
                "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
                "containers": [attempts.container("main")],
            },
        })
    };
    let each = || nodes.iter().enumerate();
    let items: Vec<Value> =
        each().map(|n| pod(n, false)).chain(each().map(|n| pod(n, true))).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Pods with an init container and a main one, both of which run [`PROGRAM`].
fn job(name: &str, pods: usize, attempts: &Attempts<'_>) -> String {
    let container = |name: &str, rounds: usize| Attempts { rounds, ..*attempts }.container(name);
    let label = json!({"app": name});
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": pods, "parallelism": pods.min(AT_A_TIME), "backoffLimit": 3,
            "template": {
                "metadata": {"labels": label},
                "spec": {
                    "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": false,
                    "tolerations": [{"operator": "Exists"}],
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": label},
                    }],
                    "initContainers": [container("init", ROUNDS[0])],
                    "containers": [container("main", ROUNDS[1])],
                },
            },
        },
    })
    .to_string()
}

/// Waits for the pods of a Job to succeed.
fn ended(ns: &Namespace, job: &str, pods: usize) -> Vec<Ended> {
    let object = format!("job/{job}");
    let wait = ["wait", "--for=condition=complete", &object, "--timeout=100s"];
    let deadline = Duration::from_secs(120 + 3 * pods as u64);
    eventually(&object, deadline, || ns.try_kubectl(&wait));
    let report = |pod: &Value, of: &str| {
        let message = &pod["status"][of][0]["state"]["terminated"]["message"];
        let message = message.as_str().unwrap_or_else(|| panic!("{of} without report: {pod}"));
        serde_json::from_str(message).unwrap_or_else(|e| panic!("{message}: {e}"))
    };
    let all = ns.pods(job);
    let succeeded = all.iter().filter(|pod| pod["status"]["phase"] == "Succeeded");
    let ended = succeeded.map(|pod| Ended {
        node: pod["spec"]["nodeName"].as_str().unwrap().to_owned(),
        reports: ["initContainerStatuses", "containerStatuses"].map(|of| report(pod, of)),
    });
    ended.collect()
}

/// Packets that all nodes have dropped because of policies: by those of the source, by those of the
/// destination, and because they were not known.
fn denied(nodes: &[Node]) -> [u64; 3] {
    ["policy_egress", "policy_ingress", "policy_pending"]
        .map(|reason| nodes.iter().map(|node| dropped(node, reason)).sum())
}

/// CONTRACT 8.16, with kubelet, containerd and init containers. The policies exist before the pods, and agents
/// have seen them; what is sent and received is counted by the kernels of the receivers.
#[test]
fn pods_under_default_deny_send_and_receive_nothing_while_agents_are_killed() {
    let (start, pods, nodes) = (Instant::now(), pods(), nodes());
    let outside = OutsideHost::start();
    let [open, closed] = ["open", "closed"].map(Namespace::new);
    closed.apply(POLICIES);
    open.apply(&service("peers", "peer", &OF_SERVICE));
    open.apply(&peers(&nodes));
    open.ready("node", nodes.len());
    let peers = open.ready("peer", nodes.len());
    let counted = [DENIED, ALLOWED, DENIED_BY_SERVICE, ALLOWED_BY_SERVICE];
    let at_peers = nodes.iter().zip(&peers).map(|(node, ip)| Arrivals::at_pod(node, ip, &counted));
    let at_hosts = nodes.iter().map(|node| node.name.as_str()).chain([outside.name()]);
    let receivers: Vec<Arrivals> =
        at_peers.chain(at_hosts.map(|name| Arrivals::at_container(name, &counted))).collect();
    let mut addresses = peers.clone();
    addresses.extend(nodes.iter().map(|node| node.address.clone()));
    addresses.extend([open.cluster_ip("peers"), outside.address.clone()]);
    for node in &nodes {
        eventually("the policies", Duration::from_secs(30), || {
            let list = sluice(node, &["policy", "list", "-o", "json"])?;
            let known = ["deny-all", "allow"].map(|name| format!("{}/{name}", closed.name));
            if known.iter().all(|name| list.contains(name)) { Ok(()) } else { Err(list) }
        });
    }
    let before = denied(&nodes);
    let begun = start.elapsed();

    let agents = KilledAgents::start(&nodes);
    let attempts = |to, after_reached| Attempts {
        own: OF_PODS,
        to,
        rounds: 0,
        pause: PAUSE,
        after_reached,
        addresses: &addresses,
    };
    closed.apply(&job("allowed", nodes.len(), &attempts(ALLOWED, true)));
    closed.apply(&job("isolated", pods, &attempts(DENIED, false)));
    let allowed = ended(&closed, "allowed", nodes.len());
    let isolated = ended(&closed, "isolated", pods);
    let all_ended = start.elapsed();
    let killed = agents.finish();

    let after = denied(&nodes);
    let [by_egress, by_ingress, pending] = [0, 1, 2].map(|n| after[n] - before[n]);
    let sent: u64 = isolated.iter().map(|pod| pod.reports[1].sent).sum();
    // To standard output itself, which libtest does not capture.
    let _ = writeln!(
        io::stdout().lock(),
        "\n    {} isolated pods sent {sent} packets; {killed} agents killed; dropped: {by_egress} by egress, \
         {by_ingress} by ingress, {pending} before policies were known; begun after {begun:?}, pods ended after \
         {all_ended:?}, agents ran again after {:?}",
        isolated.len(),
        start.elapsed(),
    );
    for receiver in &receivers {
        let count = receiver.count();
        for protocol in ["tcp", "udp"] {
            let arrived =
                [DENIED, DENIED_BY_SERVICE].map(|port| count[&format!("{protocol}-{port}")]);
            assert_eq!(arrived, [0, 0], "of isolated pods at {}: {count:?}", receiver.place);
        }
    }
    for Ended { node, reports: [init, main] } in &isolated {
        assert_eq!([init.received, main.received], [0, 0], "pod on {node}: {main:?}");
    }
    // All have tried, and what policies allow has arrived.
    assert_eq!(isolated.len(), pods);
    let on: BTreeSet<&str> = isolated.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(on.len(), nodes.len(), "isolated pods ran on {on:?}");
    let per_round = 2 * addresses.len();
    let least = ROUNDS.map(|rounds| (rounds * per_round) as u64);
    for Ended { reports: [init, main], .. } in &isolated {
        assert!(init.sent >= least[0], "{init:?}, {} attempts", least[0]);
        assert!(main.sent - init.sent >= least[1], "{init:?}, {main:?}, {} attempts", least[1]);
    }
    assert!(killed >= 2 * nodes.len(), "{killed} agents killed");
    assert!(by_egress > 0 && by_egress + pending >= sent, "{sent} sent");
    assert!(by_ingress >= pods as u64, "{by_ingress} packets to pods dropped");
    for Ended { node, reports } in &allowed {
        for report in reports {
            assert!(report.datagrams > 0 && report.connections > 0, "pod on {node}: {report:?}");
        }
    }
    for receiver in &receivers {
        let count = receiver.count();
        for protocol in ["tcp", "udp"] {
            let arrived = count[&format!("{protocol}-{ALLOWED}")];
            assert!(arrived > 0, "nothing of allowed pods at {}: {count:?}", receiver.place);
        }
    }
    let by_service = |protocol: &str| {
        let name = format!("{protocol}-{ALLOWED_BY_SERVICE}");
        receivers.iter().map(|receiver| receiver.count()[&name]).sum::<u64>()
    };
    assert!(by_service("tcp") > 0 && by_service("udp") > 0, "nothing by the Service");
}
