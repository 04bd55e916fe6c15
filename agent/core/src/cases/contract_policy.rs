//! Section 8 of the contract, as far as it follows from the objects; one test per entry.

use super::policy_notation::{World, rule};
use crate::model::{Object, PodPhase};

/// web, api and db in shop, other in test.
fn world() -> World {
    World::new()
        .pod("shop/web", "app=web", "10.244.0.2", &["http=TCP 8080"])
        .pod("shop/api", "app=api", "10.244.0.3", &["http=TCP 80", "http=TCP 81", "dns=UDP 53"])
        .pod("shop/db", "app=db", "10.244.0.4", &["sql=TCP 5432"])
        .pod("test/other", "app=api", "10.244.0.5", &["http=UDP 80"])
}

#[test]
fn contract_8_1_rules_add_up_per_direction_and_both_ends_have_to_allow() {
    let world = world()
        .policy("shop/api", "app=db", Some(&[rule(&["app=api"], &["TCP 5432"])]), None)
        .policy("shop/web", "app=db", Some(&[rule(&["app=web"], &["TCP 1"])]), None)
        .policy("shop/out", "app=web", None, Some(&[rule(&["app=api"], &[])]));
    world.expect(true, &["shop/api > shop/db: TCP 5432", "shop/web > shop/api: TCP 1"]);
    // The ingress of db allows it, the egress of web does not.
    world.expect(false, &["shop/api > shop/db: TCP 1", "shop/web > shop/db: TCP 1"]);
    world.expect(true, &["shop/db > shop/web: TCP 1", "shop/db > 1.1.1.1: UDP 53"]);
}

#[test]
fn contract_8_2_a_policy_isolates_its_directions_only() {
    let ingress = world().policy("shop/deny", "*", Some(&[]), None);
    ingress.expect(false, &["test/other > shop/db: TCP 1"]);
    ingress.expect(true, &["shop/db > test/other: TCP 1", "shop/db > 1.1.1.1: TCP 1"]);
    let egress = world().policy("shop/deny", "*", None, Some(&[]));
    egress.expect(true, &["test/other > shop/db: TCP 1"]);
    egress.expect(false, &["shop/db > test/other: TCP 1", "shop/db > 1.1.1.1: TCP 1"]);
}

#[test]
fn contract_8_3_no_rule_allows_nothing_and_an_empty_rule_everything() {
    let none = world().policy("shop/p", "app=db", Some(&[]), Some(&[]));
    none.expect(false, &["shop/web > shop/db: TCP 1", "shop/db > shop/web: TCP 1"]);
    let all = world().policy("shop/p", "app=db", Some(&[rule(&[], &[])]), Some(&[rule(&[], &[])]));
    all.expect(true, &["1.1.1.1 > shop/db: TCP 1", "shop/db > 1.1.1.1: SCTP 9"]);
    all.expect(true, &["test/other > shop/db: ICMP", "10.244.9.9 > shop/db: UDP 1"]);
}

#[test]
fn contract_8_4_a_port_without_number_is_the_whole_protocol() {
    let world = world().policy("shop/p", "app=db", Some(&[rule(&[], &["UDP", "TCP 80"])]), None);
    world.expect(true, &["shop/web > shop/db: UDP 1", "shop/web > shop/db: UDP 65535"]);
    world.expect(true, &["shop/web > shop/db: UDP 0", "shop/web > shop/db: TCP 80"]);
    world.expect(false, &["shop/web > shop/db: TCP 81", "shop/web > shop/db: SCTP 80"]);
}

#[test]
fn contract_8_5_selectors_of_pods_and_namespaces() {
    let with = |peers: &[&str]| world().policy("shop/p", "app=db", Some(&[rule(peers, &[])]), None);
    // A pod selector alone: the namespace of the policy.
    with(&["app=api"]).expect(true, &["shop/api > shop/db: TCP 1"]);
    with(&["app=api"]).expect(false, &["test/other > shop/db: TCP 1", "shop/web > shop/db: TCP 1"]);
    // Both in one peer: both hold. In two peers: one is enough.
    with(&["@name=test/app=api"]).expect(true, &["test/other > shop/db: TCP 1"]);
    with(&["@name=test/app=api"]).expect(false, &["shop/api > shop/db: TCP 1"]);
    with(&["@name=test", "app=web"]).expect(true, &["test/other > shop/db: TCP 1"]);
    with(&["@name=test", "app=web"]).expect(true, &["shop/web > shop/db: TCP 1"]);
    with(&["@name=test", "app=web"]).expect(false, &["shop/api > shop/db: TCP 1"]);
    // Every pod, but nothing outside. A pod that is not known yet has an address in a pod range.
    let all = with(&["@*"]);
    all.expect(true, &["test/other > shop/db: TCP 1", "10.244.9.9 > shop/db: TCP 1"]);
    all.expect(false, &["1.1.1.1 > shop/db: TCP 1"]);
    with(&["*"]).expect(false, &["test/other > shop/db: TCP 1", "10.244.9.9 > shop/db: TCP 1"]);
    // The other operators.
    with(&["app!=web"]).expect(true, &["shop/api > shop/db: TCP 1"]);
    with(&["app!=web"]).expect(false, &["shop/web > shop/db: TCP 1"]);
    with(&["!tier,app"]).expect(true, &["shop/web > shop/db: TCP 1"]);
    with(&["tier"]).expect(false, &["shop/web > shop/db: TCP 1"]);
}

#[test]
fn contract_8_6_named_ports_are_those_of_the_receiving_pod() {
    let ingress = world().policy("shop/p", "*", Some(&[rule(&[], &["TCP http"])]), None);
    ingress.expect(true, &["test/other > shop/web: TCP 8080"]);
    // Two containers with the name.
    ingress.expect(true, &["1.1.1.1 > shop/api: TCP 80", "1.1.1.1 > shop/api: TCP 81"]);
    ingress.expect(false, &["test/other > shop/web: TCP 80", "1.1.1.1 > shop/db: TCP 80"]);
    let egress = world().policy("shop/p", "app=db", None, Some(&[rule(&[], &["TCP http"])]));
    egress.expect(true, &["shop/db > shop/web: TCP 8080", "shop/db > shop/api: TCP 80"]);
    egress.expect(true, &["shop/db > shop/api: TCP 81"]);
    egress.expect(false, &["shop/db > shop/web: TCP 80", "shop/db > 1.1.1.1: TCP 80"]);
    // Of any namespace, but with the protocol of the rule.
    egress.expect(false, &["shop/db > test/other: UDP 80", "shop/db > test/other: TCP 80"]);
    let udp = world().policy("shop/p", "app=db", None, Some(&[rule(&["@*"], &["UDP http"])]));
    udp.expect(true, &["shop/db > test/other: UDP 80"]);
}

#[test]
fn contract_8_7_end_port_is_included() {
    let ports = &["TCP 100-200", "TCP 201-201", "UDP 9-8"];
    let world = world().policy("shop/p", "app=db", Some(&[rule(&[], ports)]), None);
    world.expect(true, &["shop/web > shop/db: TCP 100", "shop/web > shop/db: TCP 201"]);
    world.expect(false, &["shop/web > shop/db: TCP 99", "shop/web > shop/db: TCP 202"]);
    world.expect(false, &["shop/web > shop/db: UDP 8", "shop/web > shop/db: UDP 9"]);
}

#[test]
fn contract_8_8_blocks_contain_pods_and_nodes_and_exceptions_narrow_their_own_block() {
    let peers = &["10.244.0.0/16-10.244.0.2/31,10.244.9.0/24", "10.244.0.3/32", "172.18.0.0/24"];
    let world = world().policy("shop/p", "app=db", Some(&[rule(peers, &[])]), None);
    world.expect(true, &["test/other > shop/db: TCP 1", "172.18.0.9 > shop/db: TCP 1"]);
    world.expect(false, &["shop/web > shop/db: TCP 1", "10.244.9.1 > shop/db: TCP 1"]);
    // Another block allows it.
    world.expect(true, &["shop/api > shop/db: TCP 1"]);
    world.expect(false, &["1.1.1.1 > shop/db: TCP 1"]);
}

#[test]
fn contract_8_11_processes_of_the_node_reach_its_pods() {
    let world = world().policy("shop/p", "app=db", Some(&[]), Some(&[]));
    world.expect(true, &["node > shop/db: TCP 1"]);
    world.expect(false, &["172.18.0.3 > shop/db: TCP 1", "shop/db > 172.18.0.2: TCP 1"]);
}

#[test]
fn contract_8_12_pods_with_the_network_of_the_node_match_blocks_only() {
    let host = |world: World| {
        world.changed_pod("shop/host", "app=api", "172.18.0.3", &[], |pod| pod.host_network = true)
    };
    let with =
        |peer: &str| host(world().policy("shop/p", "app=db", Some(&[rule(&[peer], &[])]), None));
    with("app=api").expect(false, &["172.18.0.3 > shop/db: TCP 1"]);
    with("@*").expect(false, &["172.18.0.3 > shop/db: TCP 1"]);
    with("172.18.0.3/32").expect(true, &["172.18.0.3 > shop/db: TCP 1"]);
}

#[test]
fn contract_8_14_a_pod_reaches_its_own_address() {
    let world = world().policy("shop/p", "*", Some(&[]), Some(&[]));
    world.expect(true, &["shop/db > shop/db: TCP 1"]);
}

#[test]
fn contract_8_15_completed_pods_are_in_no_set_and_terminating_ones_in_all() {
    let policy = || world().policy("shop/p", "app=db", Some(&[rule(&["app=job"], &[])]), None);
    let job = |phase, terminating| {
        let world = policy().changed_pod("shop/job", "app=job", "10.244.0.9", &[], |pod| {
            pod.phase = phase;
            pod.terminating = terminating;
        });
        world.on_another_node("10.244.0.9")
    };
    job(PodPhase::Running, false).expect(true, &["shop/job > shop/db: TCP 1"]);
    job(PodPhase::Running, true).expect(true, &["shop/job > shop/db: TCP 1"]);
    job(PodPhase::Succeeded, false).expect(false, &["shop/job > shop/db: TCP 1"]);
    job(PodPhase::Failed, true).expect(false, &["shop/job > shop/db: TCP 1"]);
    // Another pod has its address now.
    let reused = job(PodPhase::Running, true).pod("shop/new", "app=x", "10.244.0.9", &[]);
    reused.on_another_node("10.244.0.9").expect(false, &["10.244.0.9 > shop/db: TCP 1"]);
}

#[test]
fn contract_8_15_a_completed_pod_with_a_sandbox_is_still_isolated() {
    let job = |phase| {
        let to_db = [rule(&["app=job"], &[])];
        let world = world().policy("shop/p", "app=db", Some(&to_db), None);
        let world = world.policy("shop/j", "app=job", Some(&[]), Some(&[rule(&["app=db"], &[])]));
        world.changed_pod("shop/job", "app=job", "10.244.0.9", &[], |pod| pod.phase = phase)
    };
    // Its processes have ended, but its sandbox still has the address: packets from and to it are judged by its policies. Rules
    // of other pods do not match it as a peer.
    for phase in [PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed] {
        job(phase).expect(false, &["shop/web > shop/job: TCP 1", "shop/job > 1.1.1.1: TCP 1"]);
        let is_peer = phase == PodPhase::Running;
        job(phase).expect(is_peer, &["shop/job > shop/db: TCP 1"]);
    }
}

#[test]
fn contract_8_16_a_pod_is_closed_until_its_object_is_known() {
    let world = world().policy("shop/p", "app=none", None, Some(&[]));
    let without = |name: &str| {
        let mut world = world.clone();
        world.objects.retain(|o| !matches!(o, Object::Pod(pod) if pod.name.to_string() == name));
        world
    };
    // The node has given out the address 10.244.0.4 to shop/db.
    without("shop/db").expect(false, &["10.244.0.4 > 1.1.1.1: TCP 1"]);
    without("shop/db").expect(false, &["shop/web > 10.244.0.4: TCP 1"]);
    without("test/other").expect(true, &["10.244.0.5 > 1.1.1.1: TCP 1"]);
    world.expect(true, &["shop/db > 1.1.1.1: TCP 1"]);
}

#[test]
fn contract_8_17_labels_and_edits_act_on_subjects_and_peers() {
    let peers = &["@stage=live/app=api"];
    let world = world().policy("shop/p", "app=db", Some(&[rule(peers, &[])]), None);
    let flow = &["test/other > shop/db: TCP 1"];
    world.expect(false, flow);
    world.clone().namespace("test", "stage=live").expect(true, flow);
    let moved = world.clone().namespace("test", "stage=live");
    moved.pod("test/other", "app=x", "10.244.0.5", &[]).expect(false, flow);
    world.clone().pod("shop/db", "app=free", "10.244.0.4", &[]).expect(true, flow);
    world.clone().policy("shop/p", "app=db", Some(&[rule(&["@*"], &[])]), None).expect(true, flow);
}

#[test]
fn contract_8_18_sctp_is_not_tcp_and_isolates() {
    let world = world().policy("shop/p", "app=db", Some(&[rule(&[], &["SCTP 80"])]), None);
    world.expect(true, &["shop/web > shop/db: SCTP 80"]);
    world.expect(false, &["shop/web > shop/db: TCP 80", "shop/web > shop/db: UDP 80"]);
}

#[test]
fn contract_8_19_icmp_passes_by_rules_without_ports() {
    let with = |ports: &[&str]| {
        world().policy("shop/p", "app=db", Some(&[rule(&["app=api"], ports)]), None)
    };
    with(&[]).expect(true, &["shop/api > shop/db: ICMP"]);
    with(&[]).expect(false, &["shop/web > shop/db: ICMP"]);
    with(&["TCP", "UDP", "SCTP"]).expect(false, &["shop/api > shop/db: ICMP"]);
}

#[test]
fn contract_8_20_dns_is_no_exception_and_ranges_may_have_host_bits() {
    let world = world().policy("shop/p", "app=db", None, Some(&[rule(&["10.244.0.3/31"], &[])]));
    world.expect(true, &["shop/db > shop/web: UDP 53", "shop/db > shop/api: UDP 53"]);
    world.expect(false, &["shop/db > test/other: UDP 53"]);
}
