//! Properties of the pod network that need the node's drop counters.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::time::Duration;

use cluster_tests::{Namespace, client_on, dropped, eventually, kubectl, server_on, workers};

/// Prints the source address of every datagram that arrives on port 9999.
const UDP_SINK: &str = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 9999))
while True:
    print(s.recvfrom(100)[1][0], flush=True)
";

/// Runs a Python program in the background of a pod; its output goes to /tmp/out.
fn start_python(ns: &Namespace, pod: &str, program: &str) {
    let script = format!(
        "cat > /tmp/program.py <<'END'\n{program}END\n\
         nohup python3 /tmp/program.py > /tmp/out 2>&1 < /dev/null &"
    );
    ns.sh(pod, &script).unwrap();
}

#[test]
fn packet_to_free_pod_address_is_dropped_on_its_node() {
    let ns = Namespace::new("free");
    let worker = &workers()[0];
    ns.apply(&client_on("client", &worker.name, false));
    let own = ns.ready("client", 1).remove(0);
    // Allocation ascends through the range and does not reach the last address in this run.
    let (network, _) = own.rsplit_once('.').unwrap();
    let before = dropped(worker, "no_such_pod");
    let ping = ns.sh("client", &format!("ping -c 3 -i 0.2 -W 2 {network}.254")).unwrap_err();
    assert!(ping.contains("100% packet loss"), "{ping}");
    assert!(!ping.contains("Time to live exceeded"), "{ping}");
    let drops = dropped(worker, "no_such_pod") - before;
    assert!(drops >= 3, "{drops} packets dropped with no_such_pod, 3 were sent");
}

/// The range is that of the ServiceCIDR object: the agents of the cluster have no flag that names it.
#[test]
fn packet_to_free_service_address_is_dropped_without_a_flag() {
    let ns = Namespace::new("free-service");
    let worker = &workers()[0];
    let agent = kubectl(&["-n", "sluice-system", "get", "daemonset", "sluice", "-o", "yaml"]);
    assert!(!agent.contains("--service-cidrs"), "{agent}");
    let path = "jsonpath={.spec.cidrs[0]}";
    let range = kubectl(&["get", "servicecidr", "kubernetes", "-o", path]);
    let range: ipnet::Ipv4Net = range.parse().unwrap();
    // Services get random addresses; the last one is not among the few that exist.
    let free = range.hosts().next_back().unwrap();
    ns.apply(&client_on("client", &worker.name, false));
    ns.ready("client", 1);
    let before = dropped(worker, "no_such_service");
    let ping = ns.sh("client", &format!("ping -c 3 -i 0.2 -W 2 {free}")).unwrap_err();
    assert!(ping.contains("100% packet loss"), "{ping}");
    let drops = dropped(worker, "no_such_service") - before;
    assert!(drops >= 3, "{drops} packets dropped with no_such_service, 3 were sent");
}

#[test]
fn packet_with_foreign_source_address_does_not_reach_a_pod() {
    let ns = Namespace::new("spoof");
    let (near, far) = (&workers()[0], &workers()[1]);
    let sender = client_on("sender", &near.name, false).replace(
        "      image:",
        "      securityContext: {capabilities: {add: [NET_ADMIN]}}\n      image:",
    );
    ns.apply(
        &(sender
            + &client_on("victim", &near.name, false)
            + &server_on("near", "near", &near.name)
            + &server_on("far", "far", &far.name)),
    );
    let own = ns.ready("sender", 1).remove(0);
    let targets = [("near", ns.ready("near", 1).remove(0)), ("far", ns.ready("far", 1).remove(0))];
    // One address that no pod has, and one that belongs to another pod.
    let foreign = ["10.99.99.99".to_owned(), ns.ready("victim", 1).remove(0)];
    for address in &foreign {
        ns.sh("sender", &format!("ip addr add {address}/32 dev eth0")).unwrap();
    }
    let before = dropped(near, "spoofed_source");
    for (pod, address) in &targets {
        start_python(&ns, pod, UDP_SINK);
        let observed = || ns.sh(pod, "cat /tmp/out").unwrap_or_default();
        let send = |source: &str| {
            format!(
                "python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                 s.bind(('{source}', 0)); s.sendto(b'x', ('{address}', 9999))\""
            )
        };
        // The sink runs once a datagram from the pod's own address arrives.
        eventually("a datagram from the own address", Duration::from_secs(20), || {
            ns.sh("sender", &send(&own))?;
            if observed().contains(&own) { Ok(()) } else { Err(observed()) }
        });
        for source in &foreign {
            ns.sh("sender", &send(source)).unwrap();
        }
        // Datagrams of one sender keep their order: a later one from the own address shows that
        // the spoofed ones before it are lost.
        let count = observed().lines().count();
        eventually("a later datagram from the own address", Duration::from_secs(20), || {
            ns.sh("sender", &send(&own))?;
            if observed().lines().count() > count { Ok(()) } else { Err(observed()) }
        });
        assert!(observed().lines().all(|line| line == own), "{pod} observed {}", observed());
    }
    let drops = dropped(near, "spoofed_source") - before;
    assert!(drops >= 4, "{drops} packets dropped with spoofed_source, 4 were sent");
}
