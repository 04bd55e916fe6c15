//! Section 9 of the contract, as far as it follows from the objects; one test per entry.

use super::policy_notation::{World, cluster, cluster_rule, rule};
use crate::model::RuleAction::{Accept, Deny, Pass};
use crate::model::Tier::{Admin, Baseline};
use crate::model::{ClusterRule, Namespace, Node, Object, Pod, PortSpec, parse_cidr, parse_ip};

/// web, api and db in shop, other in test.
fn world() -> World {
    World::new()
        .pod("shop/web", "app=web", "10.244.0.2", &["http=TCP 8080"])
        .pod("shop/api", "app=api", "10.244.0.3", &["http=TCP 80", "dns=UDP 53"])
        .pod("shop/db", "app=db", "10.244.0.4", &["sql=TCP 5432"])
        .pod("test/other", "app=api", "10.244.0.5", &["http=UDP 80"])
}

/// Ingress of db by one policy of a tier.
fn ingress(
    world: World,
    name: &str,
    order: (crate::model::Tier, u16),
    rules: &[ClusterRule],
) -> World {
    world.cluster_policy(cluster(name, order, "@*/app=db", rules, &[]))
}

#[test]
fn contract_9_1_admin_then_network_policy_then_baseline_then_allow() {
    let deny_web = [cluster_rule(Deny, &["@*/app=web"], &["TCP 1"])];
    let accept_web = [cluster_rule(Accept, &["@*/app=web"], &["TCP 1"])];
    let to_db = "shop/web > shop/db: TCP 1";
    // Nothing decides: allowed.
    let admin = ingress(world(), "a", (Admin, 5), &deny_web);
    admin.expect(false, &[to_db]);
    admin.expect(true, &["shop/web > shop/db: TCP 2", "shop/api > shop/db: TCP 1"]);
    admin.expect(true, &["shop/web > shop/db: ICMP", "shop/db > shop/web: TCP 1"]);
    // Admin precedes NetworkPolicies.
    let allow_all = |world: World| world.policy("shop/p", "app=db", Some(&[rule(&[], &[])]), None);
    let deny_all = |world: World| world.policy("shop/p", "app=db", Some(&[]), None);
    allow_all(admin.clone()).expect(false, &[to_db]);
    deny_all(ingress(world(), "a", (Admin, 5), &accept_web)).expect(true, &[to_db]);
    deny_all(ingress(world(), "a", (Admin, 5), &accept_web))
        .expect(false, &["shop/web > shop/db: TCP 2", "shop/web > shop/db: ICMP"]);
    // An isolated pod never reaches Baseline, in that direction.
    let baseline = ingress(world(), "b", (Baseline, 5), &deny_web);
    baseline.expect(false, &[to_db]);
    baseline.expect(true, &["shop/web > shop/db: TCP 2"]);
    allow_all(baseline.clone()).expect(true, &[to_db]);
    deny_all(ingress(world(), "b", (Baseline, 5), &accept_web)).expect(false, &[to_db]);
    baseline.policy("shop/out", "app=db", None, Some(&[])).expect(false, &[to_db]);
}

#[test]
fn contract_9_2_priority_then_order_of_rules_and_each_direction_by_itself() {
    let deny = cluster_rule(Deny, &["@*/app=web"], &[]);
    let accept = cluster_rule(Accept, &["@*/*"], &["TCP"]);
    let (web, icmp) = ("shop/web > shop/db: TCP 1", "shop/web > shop/db: ICMP");
    let both = |first: &ClusterRule, second: &ClusterRule| {
        ingress(world(), "a", (Admin, 9), &[first.clone(), second.clone()])
    };
    both(&deny, &accept).expect(false, &[web, icmp]);
    both(&accept, &deny).expect(true, &[web]);
    both(&accept, &deny).expect(false, &[icmp]);
    // The lower number is first, whatever the names.
    let by_priority = |deny_at, accept_at| {
        let world = ingress(world(), "a", (Admin, deny_at), std::slice::from_ref(&deny));
        ingress(world, "z", (Admin, accept_at), std::slice::from_ref(&accept))
    };
    by_priority(1000, 0).expect(true, &[web]);
    by_priority(0, 1000).expect(false, &[web]);
    // Egress that is accepted does not accept for the destination.
    let out =
        cluster("out", (Admin, 0), "@*/app=web", &[], &[cluster_rule(Accept, &["@*/*"], &[])]);
    let world = world().policy("shop/deny", "*", Some(&[]), Some(&[]));
    world.clone().cluster_policy(out).expect(false, &["shop/web > shop/db: TCP 1"]);
    let into = cluster("in", (Admin, 0), "@*/*", &[cluster_rule(Accept, &["@*/*"], &[])], &[]);
    let out = cluster("out", (Admin, 0), "@*/*", &[], &[cluster_rule(Accept, &["@*/*"], &[])]);
    world.cluster_policy(into).cluster_policy(out).expect(true, &["shop/web > shop/db: TCP 1"]);
}

#[test]
fn contract_9_3_pass_leaves_the_tier_and_selecting_isolates_nothing() {
    let pass = cluster_rule(Pass, &["@*/app=web"], &["TCP 1-9"]);
    let deny = cluster_rule(Deny, &["@*/*"], &[]);
    let rules = [pass.clone(), deny.clone()];
    let (web, other) = ("shop/web > shop/db: TCP 1", "shop/api > shop/db: TCP 1");
    let admin = ingress(world(), "a", (Admin, 0), &rules);
    admin.expect(true, &[web]);
    admin.expect(false, &[other, "shop/web > shop/db: TCP 10"]);
    admin.clone().policy("shop/p", "app=db", Some(&[]), None).expect(false, &[web]);
    // A later policy of the tier is skipped as well, the Baseline tier is not.
    ingress(admin.clone(), "b", (Admin, 1), std::slice::from_ref(&deny)).expect(true, &[web]);
    ingress(admin, "c", (Baseline, 0), std::slice::from_ref(&deny)).expect(false, &[web]);
    ingress(world(), "c", (Baseline, 0), &rules).expect(true, &[web]);
    // A policy that accepts something denies nothing else.
    let accept = [cluster_rule(Accept, &["@*/app=web"], &["TCP 1"])];
    ingress(world(), "a", (Admin, 0), &accept).expect(true, &[other, "1.1.1.1 > shop/db: UDP 1"]);
}

#[test]
fn contract_9_4_a_rule_that_is_not_understood_matches_nothing_or_denies_everything() {
    let invalid = |action| ClusterRule {
        invalid: Some("from[0] has no field that is known".into()),
        ..cluster_rule(action, &["@*/app=web"], &["TCP 1"])
    };
    let accept = cluster_rule(Accept, &["@*/*"], &[]);
    let flows =
        ["shop/web > shop/db: TCP 1", "shop/api > shop/db: UDP 7", "1.1.1.1 > shop/db: ICMP"];
    for action in [Deny, Pass] {
        let world = ingress(world(), "a", (Admin, 0), &[invalid(action), accept.clone()]);
        world.expect(false, &flows);
        world.expect(true, &["shop/db > shop/web: TCP 1"]);
    }
    let world = ingress(world(), "a", (Admin, 0), &[invalid(Accept)]);
    world.expect(true, &flows);
    world.policy("shop/p", "app=db", Some(&[]), None).expect(false, &flows);
    // Without peers, which the conversion does not produce.
    for (action, passes) in [(Accept, true), (Deny, false), (Pass, false)] {
        let rule = cluster_rule(action, &[], &[]);
        ingress(self::world(), "a", (Admin, 0), &[rule]).expect(passes, &flows);
    }
    let mut port = cluster_rule(Deny, &["@*/app=api"], &["TCP 1"]);
    port.matches.ports[0].ports = PortSpec::Invalid("port".into());
    ingress(self::world(), "a", (Admin, 0), &[port]).expect(false, &flows);
}

#[test]
fn contract_9_5_peers_are_pods_namespaces_networks_and_nodes() {
    let with = |peers: &[&str], ports: &[&str]| {
        let rules = [cluster_rule(Deny, peers, ports)];
        let node = |name: &str, labels: &[(&'static str, &'static str)], ip: &str| {
            Object::Node(Node {
                name: name.into(),
                pod_cidrs: parse_cidr("10.244.0.0/16").into_iter().collect(),
                internal_ips: parse_ip(ip).into_iter().collect(),
                external_ips: parse_ip(&ip.replace("172.18", "203.0")).into_iter().collect(),
                labels: labels.iter().copied().collect(),
                ..Node::default()
            })
        };
        world()
            .with(node("n1", &[("role", "edge")], "172.18.0.2"))
            .with(node("n2", &[], "172.18.0.3"))
            .cluster_policy(cluster("a", (Admin, 0), "@name=shop/app=db", &[], &rules))
    };
    with(&["@name=test/*"], &[]).expect(false, &["shop/db > test/other: TCP 1"]);
    with(&["@name=test/*"], &[]).expect(true, &["shop/db > shop/api: TCP 1"]);
    with(&["@name=test/app=web"], &[]).expect(true, &["shop/db > test/other: TCP 1"]);
    // Networks hit pods too.
    let networks = with(&["10.244.0.2/31", "172.18.0.0/31"], &[]);
    networks.expect(false, &["shop/db > shop/web: TCP 1", "shop/db > 172.18.0.1: ICMP"]);
    networks.expect(true, &["shop/db > test/other: TCP 1", "shop/db > 172.18.0.2: TCP 1"]);
    let nodes = with(&["nodes role=edge"], &["TCP 6443"]);
    nodes.expect(false, &["shop/db > 172.18.0.2: TCP 6443"]);
    nodes.expect(true, &["shop/db > 172.18.0.2: TCP 1", "shop/db > 172.18.0.3: TCP 6443"]);
    nodes.expect(false, &["shop/db > 203.0.0.2: TCP 6443"]);
    nodes.expect(true, &["shop/db > 203.0.0.3: TCP 6443"]);
    with(&["nodes *"], &[]).expect(false, &["shop/db > 172.18.0.3: TCP 1"]);
    // Names are those of the destination; an address outside has none.
    let named = with(&["@*/*"], &["TCP http", "UDP http", "SCTP http"]);
    named.expect(false, &["shop/db > shop/api: TCP 80", "shop/db > test/other: UDP 80"]);
    named.expect(true, &["shop/db > shop/api: UDP 80", "shop/db > test/other: TCP 80"]);
    named.expect(true, &["shop/db > 1.1.1.1: TCP 80"]);
    // Pods with the network of the node are neither subjects nor peers of selectors.
    let host = |pod: &mut Pod| pod.host_network = true;
    let deny = [cluster_rule(Deny, &["@*/*"], &[])];
    let world = world()
        .cluster_policy(cluster("a", (Admin, 0), "@*/app=db", &deny, &deny))
        .cluster_policy(cluster("b", (Admin, 0), "@*/app=host", &deny, &deny))
        .changed_pod("shop/agent", "app=host", "172.18.0.9", &[], host)
        .on_another_node("172.18.0.9");
    world.expect(true, &["shop/db > 172.18.0.9: TCP 1", "172.18.0.9 > shop/db: TCP 1"]);
    world.expect(true, &["shop/web > 172.18.0.9: TCP 1", "172.18.0.9 > shop/web: TCP 1"]);
    world.expect(false, &["shop/db > shop/web: TCP 1", "shop/web > shop/db: TCP 1"]);
}

#[test]
fn contract_9_5_rules_that_deny_may_mean_pods_that_are_not_known() {
    let deny = cluster_rule(Deny, &["@name=test/app=bad"], &["TCP 1"]);
    let pass = cluster_rule(Pass, &["@name=test/app=bad"], &["TCP 2"]);
    let rules = [deny, pass, cluster_rule(Accept, &["@*/*", "0.0.0.0/0"], &[])];
    let closed = |world: World| world.policy("shop/p", "app=db", Some(&[]), None);
    let world = ingress(world(), "a", (Admin, 0), &rules);
    // An address in a pod range that no known pod has; not one outside, and no known pod.
    world.expect(false, &["10.244.9.9 > shop/db: TCP 1"]);
    world.expect(true, &["10.244.9.9 > shop/db: TCP 2", "10.244.9.9 > shop/db: TCP 3"]);
    closed(world.clone()).expect(false, &["10.244.9.9 > shop/db: TCP 2"]);
    closed(world.clone()).expect(true, &["10.244.9.9 > shop/db: TCP 3"]);
    for known in ["shop/web > shop/db: TCP 1", "test/other > shop/db: TCP 1"] {
        world.expect(true, &[known, "1.1.1.1 > shop/db: TCP 1"]);
    }
    // A pod whose namespace is not known, and an address that two pods have.
    let lost = world.clone().pod("lost/web", "app=web", "10.244.0.9", &[]);
    lost.clone().expect(false, &["lost/web > shop/db: TCP 1"]);
    lost.namespace("lost", "name=lost").expect(true, &["lost/web > shop/db: TCP 1"]);
    let twice = world.pod("shop/new", "app=web", "10.244.0.8", &[]).on_another_node("10.244.0.8");
    twice.clone().expect(true, &["shop/new > shop/db: TCP 1"]);
    let twice = twice.pod("shop/old", "app=web", "10.244.0.8", &[]).on_another_node("10.244.0.8");
    twice.expect(false, &["shop/new > shop/db: TCP 1"]);
}

#[test]
fn contract_9_7_a_pod_reaches_its_own_address_whatever_the_rules() {
    let deny = [cluster_rule(Deny, &["@*/*", "0.0.0.0/0"], &[])];
    let world = world().cluster_policy(cluster("a", (Admin, 0), "@*/*", &[], &deny));
    world.expect(true, &["shop/db > shop/db: TCP 1"]);
    world.expect(false, &["shop/db > shop/api: TCP 1"]);
}

#[test]
fn contract_9_8_processes_of_the_node_reach_its_pods() {
    let deny = [cluster_rule(Deny, &["@*/*"], &[])];
    let world = world().cluster_policy(cluster("a", (Admin, 0), "@*/*", &deny, &[]));
    world.expect(true, &["node > shop/db: TCP 1", "172.18.0.3 > shop/db: TCP 1"]);
    world.expect(false, &["shop/api > shop/db: TCP 1"]);
}

#[test]
fn pod_that_a_cluster_policy_may_select_is_closed_until_it_is_known() {
    let policy =
        |subject| cluster("a", (Admin, 0), subject, &[cluster_rule(Accept, &["@*/*"], &[])], &[]);
    let mut world = world();
    // The lease is there, the Pod object is not.
    world.objects.retain(|object| object.name().to_string() != "shop/db");
    let flow = &["1.1.1.1 > 10.244.0.4: TCP 1"];
    world.expect(true, flow);
    world.clone().cluster_policy(policy("@name=test/app=db")).expect(true, flow);
    world.clone().cluster_policy(policy("@name=shop/app=web")).expect(false, flow);
    // A policy without rules affects nothing.
    world.clone().cluster_policy(cluster("a", (Admin, 0), "@*/*", &[], &[])).expect(true, flow);
    // The Pod object is there, the namespace is not.
    let mut world = self::world();
    world.objects.retain(
        |object| !matches!(object, Object::Namespace(Namespace { name, .. }) if name == "shop"),
    );
    let flow = &["1.1.1.1 > shop/db: TCP 1"];
    world.clone().cluster_policy(policy("@name=test/*")).expect(false, flow);
    world.clone().cluster_policy(policy("@*/app=web")).expect(true, flow);
}
