//! The contract with Kubernetes, entry by entry: what is promised of the maps when Services and slices
//! change. The names begin with the numbers of the sections.

use super::contract::EVERY;
use super::notation;
use crate::diff::Plan;
use crate::dump;
use crate::model::{Change, Node, Object};
use crate::properties::kernel::{Kernel, rows};
use crate::properties::plans::{Agent, CAPACITY};

#[test]
fn contract_4_1_affinity_is_shared_by_all_frontends_of_a_port_and_no_others() {
    let service = "service shop/web 10.96.0.1,fd00:96::1 a/TCP:80@30080 b/TCP:81 a/UDP:80 \
                   lb=203.0.113.1 affinity=60";
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[service]);
    let id = |key: &str| {
        let mut found = kernel.frontends.iter().filter(|(k, _)| dump::key(k) == key);
        found.next().unwrap_or_else(|| panic!("no {key}")).1.service
    };
    let port = id("10.96.0.1:80/TCP");
    assert_eq!([id("203.0.113.1:80/TCP"), id("0.0.0.0:30080/TCP")], [port; 2]);
    let others = ["10.96.0.1:81/TCP", "10.96.0.1:80/UDP", "[fd00:96::1]:80/TCP"].map(id);
    assert!(!others.contains(&port), "{others:?}");
    assert!(kernel.services.values().all(|port| port.affinity_seconds == 60));
}

fn apply(kernel: &mut Kernel, agent: &mut Agent, lines: &[&str]) -> Plan {
    let changes: Vec<Change> =
        lines.iter().map(|line| notation::change(line).expect("a change")).collect();
    let plan = agent.apply_and_plan(&changes);
    kernel.begin_plan();
    rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
    plan
}

/// The stale UDP backends after a second step.
fn stale(first: &[&str], second: &[&str]) -> Vec<String> {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let node = Object::Node(Node { name: "n1".into(), ..Node::default() });
    agent.index.apply(Change::Apply(node));
    apply(&mut kernel, &mut agent, first);
    let plan = apply(&mut kernel, &mut agent, second);
    plan.stale_udp.iter().map(|stale| dump::backend(&stale.backend)).collect()
}

const DNS: &str = "service shop/dns 10.96.0.10 /UDP:53@30053 lb=203.0.113.1";
const TWO: &str = "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1 10.0.0.2@n2";

#[test]
fn contract_5_1_flows_leave_a_udp_backend_that_is_not_serving_any_more() {
    for second in [
        "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1",
        "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1 10.0.0.2@n2?unready?unserving",
        "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1 10.0.0.2@n2?unready?unserving?terminating",
    ] {
        assert_eq!(stale(&[DNS, TWO], &[second]), ["10.0.0.2:53"], "{second}");
    }
    let target = "slice shop/s of=dns ports=/UDP:5353 10.0.0.1@n1 10.0.0.2@n2";
    assert_eq!(stale(&[DNS, TWO], &[target]), ["10.0.0.1:53", "10.0.0.2:53"]);
}

#[test]
fn contract_5_3_flows_leave_when_no_endpoint_or_no_service_is_left() {
    for second in ["delete slice shop/s", "delete service shop/dns"] {
        assert_eq!(stale(&[DNS, TWO], &[second]), ["10.0.0.1:53", "10.0.0.2:53"], "{second}");
    }
}

#[test]
fn contract_5_4_policy_hints_and_termination_keep_flows() {
    for second in [
        "service shop/dns 10.96.0.10 /UDP:53@30053 lb=203.0.113.1 policy=Local external-policy=Local",
        "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1?node=n1 10.0.0.2@n2?node=n2",
        "slice shop/s of=dns ports=/UDP:53 10.0.0.1@n1?unready 10.0.0.2@n2?unready?terminating",
        "service shop/dns 10.96.0.10 /UDP:53",
    ] {
        assert_eq!(stale(&[DNS, TWO], &[second]), [""; 0], "{second}");
    }
}

#[test]
fn contract_5_7_tcp_backends_are_never_stale() {
    let slice = "slice shop/s of=web ports=/TCP:8080 10.0.0.1@n1";
    assert_eq!(stale(&[EVERY, slice], &["delete service shop/web"]), [""; 0]);
}

#[test]
fn contract_7_6_services_on_the_same_pods_are_independent() {
    let other = "service shop/other 10.96.0.9 /UDP:53";
    let of_other = "slice shop/o of=other ports=/UDP:53 10.0.0.1@n1 10.0.0.2@n2";
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[DNS, TWO, other, of_other]);
    let before = kernel.effect();
    apply(&mut kernel, &mut agent, &["delete service shop/dns"]);
    let after = kernel.effect();
    assert!(!after.is_empty() && after.iter().all(|(key, effect)| before.get(key) == Some(effect)));
}
