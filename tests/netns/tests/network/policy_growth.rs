//! Maps of policies that are replaced by larger ones: what is denied stays denied, and what is allowed loses nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use netns_tests::capture::Capture;
use netns_tests::manifest::{namespace, pod_with_labels};
use netns_tests::peer::{HoldReport, SprayReport};
use netns_tests::{Node, Pod, Process, Server, Topology, Version, agents, dataplane, eventually};
use sluice_abi::{Addr, DropReason, PolicyPeerKey, PolicyPorts, map, node_flags, pin};
use sluice_bpf::{map_info, obj_get};

use crate::reach::{all_reach, reaches};
use crate::traffic::{Churn, Traffic, apply_pods, drops, pod, short_pod, wait_alone};

/// Maps that hold the rows of seven rules beside that for `web`.
const SMALL: &str = "--initial-capacity=16";
/// UDP port of what is denied.
const SPRAY: u16 = 7777;
/// Least number of attempts of each kind over each change.
const ATTEMPTS: u64 = 125;

/// Pods of a namespace that is isolated. What is denied is sent all the time.
struct Shop {
    topology: Topology,
    server: Pod,
    near: Pod,
    far: Pod,
    near_denied: Pod,
    far_denied: Pod,
    _server: Server,
}

/// Pods `w<n>` of another node.
fn peers(number: u32) -> String {
    let pod = |n: u32| {
        format!(
            "kind: Pod\nmetadata: {{name: w{n}, namespace: shop, labels: {{app: w{n}}}}}\n\
             spec: {{nodeName: other}}\nstatus: {{podIP: 10.244.9.{n}}}\n"
        )
    };
    (1..=number).map(pod).collect::<Vec<_>>().join("---\n")
}

/// `server` receives from `web`, and from each of so many other pods on a port of its own, which takes a row.
fn policy(rules: u32) -> String {
    let rule = |n: u32| {
        format!(
            "  - from: [{{podSelector: {{matchLabels: {{app: w{n}}}}}}}]\n    ports: [{{port: {}}}]\n",
            9000 + n
        )
    };
    let rules: String = (1..=rules).map(rule).collect();
    format!(
        "kind: NetworkPolicy\nmetadata: {{name: server, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{role: web}}}}}}]\n    ports: [{{port: 8080}}]\n{rules}"
    )
}

impl Shop {
    /// The policy with two rules for other pods is in force.
    fn new(topology: Topology, a: &Node, b: &Node) -> Shop {
        topology.apply("ns", &namespace("shop", &[]));
        topology.apply("peers", &peers(120));
        let [server, near, near_denied] =
            ["server", "near", "near-denied"].map(|name| pod(a, &format!("shop/{name}")));
        let [far, far_denied] = ["far", "far-denied"].map(|name| pod(b, &format!("shop/{name}")));
        apply_pods(
            &topology,
            &[
                ("server", &server, "app", "server"),
                ("near", &near, "role", "web"),
                ("far", &far, "role", "web"),
                ("near-denied", &near_denied, "role", "batch"),
                ("far-denied", &far_denied, "role", "batch"),
            ],
        );
        let serving = server.serve("server", &["tcp:8080"]);
        Shop { topology, server, near, far, near_denied, far_denied, _server: serving }
    }

    /// Starts what the policy will deny: flows are established when it comes.
    fn denied(&self) -> Vec<(&'static str, Process)> {
        let to = self.server.address;
        let spray = |host: &Pod| host.spray(7001, &format!("{to}:{SPRAY}"), &format!("{to}:8080"));
        let sprays = vec![("near", spray(&self.near_denied)), ("far", spray(&self.far_denied))];
        for host in [&self.near_denied, &self.far_denied] {
            reaches("before the policy", host, &self.server.at(8080), true);
        }
        sprays
    }

    /// Applies the policy and waits until it acts.
    fn isolate(&self) {
        self.topology.apply("policy", &policy(2));
        let to = self.server.at(8080);
        all_reach(&[
            ("near", &self.near, &to, true),
            ("far", &self.far, &to, true),
            ("near, denied", &self.near_denied, &to, false),
            ("far, denied", &self.far_denied, &to, false),
        ]);
    }

    /// Starts what the policy allows.
    fn allowed(&self) -> Vec<(&'static str, Process)> {
        let to = self.server.at(8080);
        vec![
            ("near pod", self.near.hold("tcp", &to)),
            ("near pod, new connections", self.near.hold("connect", &to)),
            ("far pod", self.far.hold("tcp", &to)),
            ("far pod, new connections", self.far.hold("connect", &to)),
        ]
    }

    fn capture(&self) -> Capture {
        self.server.capture("eth0", &self.topology.capture_file("server"))
    }

    /// Nothing that is denied has arrived, and nothing that is allowed was lost.
    fn finish(self, capture: Capture, allowed: Vec<(&'static str, Process)>) {
        let mut failures = Vec::new();
        for (what, client) in allowed {
            let held: HoldReport = client.finish();
            println!("    {what}: {} responses, longest {} ms", held.responses, held.longest_ms);
            if !held.errors.is_empty() || held.longest_ms >= 900 {
                failures.push(format!("{what}: {held:?}"));
            }
        }
        let denied = [self.near_denied.address, self.far_denied.address];
        let packets = capture.finish();
        let source = |packet: &[u8]| <[u8; 4]>::try_from(&packet[12..16]).map(Ipv4Addr::from);
        let arrived = packets.iter().filter(|p| denied.contains(&source(p).unwrap())).count();
        println!("    {arrived} denied packets of {}", packets.len());
        assert!(!packets.is_empty());
        assert_eq!((arrived, failures), (0, Vec::<String>::new()));
    }
}

/// Asks each sender of what is denied for some attempts from now on.
fn attempt(sprays: &mut [(&'static str, Process)]) {
    for (_, spray) in sprays {
        spray.write_line(&ATTEMPTS.to_string());
    }
}

/// Waits for these attempts.
fn attempted(sprays: &mut [(&'static str, Process)]) {
    for (what, spray) in sprays {
        assert_eq!(spray.line(), "sprayed", "{what}");
    }
}

fn end(sprays: Vec<(&'static str, Process)>) {
    for (what, spray) in sprays {
        let report: SprayReport = spray.finish();
        assert!(report.least() > 0, "{what}: {report:?}");
    }
}

/// Waits until the policy with so many rules for other pods is in the pinned maps.
fn wait_rules(node: &Node, rules: u32) {
    eventually("rows of the policy", || {
        let path = dataplane::map_path(map::POLICY_PEERS);
        // The pin is absent for the moment in which it is replaced.
        let rows = node.namespaces.run(|| {
            let peers = sluice_bpf::Map::<PolicyPeerKey, PolicyPorts>::open_pinned(path).ok()?;
            Some(peers.entries().ok()?.len())
        });
        if rows == Some(rules as usize + 1) { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

fn capacities(node: &Node, version: Version) -> [u32; 2] {
    let maps = Path::new(pin::ROOT).with_file_name(version.pins()).join("maps");
    node.namespaces.run(|| {
        [map::POLICY_CLASSES, map::POLICY_PEERS]
            .map(|name| map_info(obj_get(&maps.join(name)).unwrap()).unwrap().max_entries)
    })
}

fn ids(node: &Node, names: &[&str]) -> Vec<u64> {
    let id = |name: &&str| dataplane::object_id(&dataplane::map_path(name));
    node.namespaces.run(|| names.iter().map(id).collect())
}

/// Drops that are none of the policy's.
fn other_drops(node: &Node) -> Vec<(DropReason, u64)> {
    let expected = [DropReason::PolicyIngress, DropReason::PolicyPending];
    drops(node).into_iter().filter(|(reason, _)| !expected.contains(reason)).collect()
}

#[test]
fn policies_hold_while_their_maps_grow_and_nothing_is_lost() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    let shop = Shop::new(topology, &a, &b);
    let mut sprays = shop.denied();
    shop.isolate();
    assert_eq!(capacities(&a, Version::This), [16; 2]);
    let kept = [map::FLOWS, map::PODS, map::LOCAL_PODS, map::OPEN_NAMESPACES, map::SERVICES];
    let before = ids(&a, &kept);
    let (capture, allowed) = (shop.capture(), shop.allowed());
    // Namespace `default` has no policies: its pods talk at once, also in the middle of a growth.
    Churn::while_running(&a, &traffic.far.at(8080), |churn| {
        for rules in [20, 60] {
            let tables = ids(&a, &map::POLICY_TABLES);
            attempt(&mut sprays);
            churn.during(|| {
                shop.topology.apply("policy", &policy(rules));
                wait_rules(&a, rules);
                wait_alone(&a, &mut agent, Version::This);
            });
            attempted(&mut sprays);
            println!("    {rules} rules: {:?} entries", capacities(&a, Version::This));
            let now = ids(&a, &map::POLICY_TABLES);
            // Rows of each refer to others.
            assert!(tables.iter().zip(&now).all(|(old, new)| old != new), "{tables:?} {now:?}");
        }
    });
    assert_eq!(ids(&a, &kept), before);
    let classes = dataplane::entries::<Addr, u64>(&a, map::POLICY_CLASSES).len();
    // Those of `near` and `far`.
    assert_eq!(classes, 60 + 2);
    assert!(!agent.log().contains("condition: failed"), "{}", agent.log());
    end(sprays);
    traffic.finish();
    assert_eq!(other_drops(&a), []);
    // Removes the topology.
    shop.finish(capture, allowed);
}

#[test]
fn agents_killed_during_a_growth_of_policies_keep_them_in_force() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let shop = Shop::new(topology, &a, &b);
    let mut sprays = shop.denied();
    shop.isolate();
    let (capture, allowed) = (shop.capture(), shop.allowed());
    agent.kill();
    for (rules, line) in [
        (12, "maps set aside: attached programs use them until the switch"),
        (30, "maps replaced by larger ones"),
        (60, "programs of this version have taken over"),
        (120, "taken over from another version"),
    ] {
        attempt(&mut sprays);
        shop.topology.apply("policy", &policy(rules));
        println!("    {rules} rules until {line:?}");
        a.agent_not_ready(&[SMALL]).kill_at(&[line]);
        attempted(&mut sprays);
    }
    let mut agent = a.agent_with(&[SMALL]);
    wait_rules(&a, 120);
    wait_alone(&a, &mut agent, Version::This);
    assert_eq!(capacities(&a, Version::This)[1], 512);
    end(sprays);
    assert_eq!(other_drops(&a), []);
    shop.finish(capture, allowed);
}

/// The agent ends between the replacement and the switch, and what was allowed is denied by the time the next one
/// starts.
#[test]
fn policy_that_changes_during_a_growth_ends_open_flows_with_the_switch() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let shop = Shop::new(topology, &a, &b);
    shop.isolate();
    let allowed = shop.allowed();
    agent.kill();
    let interrupted = [20, 60, 120].into_iter().any(|rules| {
        shop.topology.apply("policy", &policy(rules));
        a.agent_not_ready(&[SMALL]).kill_at(&["maps replaced by larger ones"]);
        // The switch follows within milliseconds.
        dataplane::node_config(&a).flags & node_flags::HANDED_OVER != 0
    });
    assert!(interrupted, "each agent had switched the hooks before it was killed");
    shop.topology.apply("near", &pod_with_labels(&shop.near, &[("role", "batch")]));
    shop.topology.apply("far", &pod_with_labels(&shop.far, &[("role", "batch")]));
    let mut agent = a.agent_with(&[SMALL]);
    wait_alone(&a, &mut agent, Version::This);
    let to = shop.server.at(8080);
    all_reach(&[("near", &shop.near, &to, false), ("far", &shop.far, &to, false)]);
    for (what, client) in allowed {
        let held: HoldReport = client.finish();
        assert!(!held.errors.is_empty(), "{what}: {held:?}");
    }
}

#[test]
fn failed_growth_of_policies_closes_what_does_not_fit_and_is_repeated() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    let shop = Shop::new(topology, &a, &b);
    shop.isolate();
    // A program cannot be pinned: a directory has its name.
    let obstacle = Path::new(pin::PROGRAMS).join("to_pod_new");
    a.namespaces.run(|| fs::create_dir(&obstacle).unwrap());
    let before = ids(&a, &map::ALL);
    shop.topology.apply("policy", &policy(20));
    eventually("the conditions", || {
        let (_, status) = a.try_sluice(&["status"]);
        let words = ["Condition Growth:", "to_pod_new", "Pod shop/server", "ingress is closed"];
        if words.iter().all(|words| status.contains(words)) { Ok(()) } else { Err(status) }
    });
    assert_eq!(ids(&a, &map::ALL), before, "the present maps stay pinned");
    let to = shop.server.at(8080);
    all_reach(&[
        ("near", &shop.near, &to, false),
        ("far", &shop.far, &to, false),
        ("near, denied", &shop.near_denied, &to, false),
    ]);
    // Pods of other namespaces can be added meanwhile.
    short_pod(&a, &traffic.far.at(8080), 0);
    a.namespaces.run(|| fs::remove_dir(&obstacle).unwrap());
    wait_rules(&a, 20);
    wait_alone(&a, &mut agent, Version::This);
    all_reach(&[
        ("near", &shop.near, &to, true),
        ("far", &shop.far, &to, true),
        ("near, denied", &shop.near_denied, &to, false),
    ]);
    traffic.finish();
    assert_eq!(other_drops(&a), []);
}

#[test]
fn maps_of_policies_that_have_grown_keep_their_rows_over_an_upgrade_and_a_downgrade() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let shop = Shop::new(topology, &a, &b);
    let mut sprays = shop.denied();
    shop.isolate();
    shop.topology.apply("policy", &policy(20));
    wait_rules(&a, 20);
    wait_alone(&a, &mut agent, Version::This);
    let grown = capacities(&a, Version::This);
    let (capture, allowed) = (shop.capture(), shop.allowed());
    for version in [Version::Next, Version::This] {
        attempt(&mut sprays);
        agent.kill();
        agent = a.agent_of_with(version, &[SMALL]);
        wait_alone(&a, &mut agent, version);
        attempted(&mut sprays);
        assert_eq!(capacities(&a, version), grown, "{version:?}");
    }
    wait_rules(&a, 20);
    end(sprays);
    shop.finish(capture, allowed);
}
