//! The generators produce what the properties are about: a property of cases that never occur holds
//! for wrong code.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sluice_abi::proto;

use super::kernel::{Kernel, rows};
use super::plans::{Agent, CAPACITY, steps};
use super::{context, index_of, packets};
use crate::generate::{self, THIS_NODE};
use crate::model::{EndpointSlice, ExternalAccess, Object, Service, TrafficPolicy};
use crate::oracle::{self, Answer, World};
use crate::table::Write;

/// Number of generated values.
pub const SAMPLES: usize = 400;

/// Values of a strategy, the same in every run.
pub fn samples<S: Strategy>(strategy: S) -> impl Iterator<Item = S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..SAMPLES).map(move |_| strategy.new_tree(&mut runner).expect("a value").current())
}

fn answers(objects: &[Object]) -> Vec<Answer> {
    let context = context();
    let world = World { objects, node: THIS_NODE, context: &context };
    packets().map(|packet| oracle::answer(world, packet)).collect()
}

/// Fails if a case occurs in a smaller share of the samples than expected, in percent.
#[track_caller]
fn assert_shares(found: &BTreeMap<&str, usize>, expected: &[(&str, usize)]) {
    let share = |name: &str| found.get(name).copied().unwrap_or_default() * 100 / SAMPLES;
    let rare: Vec<String> = expected
        .iter()
        .filter(|(name, least)| share(name) < *least)
        .map(|(name, least)| format!("{name}: {} % instead of {least} %", share(name)))
        .collect();
    assert!(rare.is_empty(), "{rare:#?}\n{found:#?}");
}

fn services(mut objects: Vec<Object>, change: impl Fn(&mut Service)) -> Vec<Object> {
    for object in &mut objects {
        if let Object::Service(service) = object {
            change(service);
        }
    }
    objects
}

fn slices(mut objects: Vec<Object>, change: impl Fn(&mut EndpointSlice)) -> Vec<Object> {
    for object in &mut objects {
        if let Object::EndpointSlice(slice) = object {
            change(slice);
        }
    }
    objects
}

#[test]
fn generated_objects_have_every_answer() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for objects in samples(generate::objects()) {
        let answers = answers(&objects);
        let context = context();
        let world = World { objects: &objects, node: THIS_NODE, context: &context };
        let usable = |packet| oracle::usable_endpoints(world, packet);
        let mut count = |name, holds: bool| *found.entry(name).or_default() += usize::from(holds);
        count("no Service", answers.contains(&Answer::NotAService));
        count("rejected", answers.contains(&Answer::Rejected));
        count("dropped", answers.contains(&Answer::Dropped));
        count("source not allowed", answers.contains(&Answer::SourceNotAllowed));
        let backends = |least| {
            answers.iter().any(
                |a| matches!(a, Answer::Backends { endpoints, .. } if endpoints.len() >= least),
            )
        };
        count("one endpoint", backends(1));
        count("several endpoints", backends(2));
        let unselected = packets().zip(&answers).any(|(packet, answer)| {
            let chosen = match answer {
                Answer::Backends { endpoints, .. } => endpoints.len(),
                _ => 0,
            };
            packet.protocol == proto::UDP && usable(packet).len() > chosen
        });
        count("usable endpoints of UDP that are not selected", unselected);
    }
    let expected = [
        ("no Service", 90),
        ("rejected", 50),
        ("dropped", 10),
        ("source not allowed", 10),
        ("one endpoint", 30),
        ("several endpoints", 20),
        ("usable endpoints of UDP that are not selected", 10),
    ];
    assert_shares(&found, &expected);
}

/// A feature occurs if the answers differ without it.
#[test]
fn every_feature_of_a_service_changes_answers() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for objects in samples(generate::objects()) {
        let whole = answers(&objects);
        let mut count = |name, without: Vec<Object>| {
            *found.entry(name).or_default() += usize::from(answers(&without) != whole);
        };
        let o = || objects.clone();
        count("affinity", services(o(), |s| s.session_affinity = None));
        count(
            "traffic policy",
            services(o(), |s| s.internal_traffic_policy = TrafficPolicy::Cluster),
        );
        count("age of Services on one address", services(o(), |s| s.created = -s.created));
        let external = |change: fn(&mut ExternalAccess)| {
            services(o(), |s| s.external.iter_mut().for_each(|external| change(external)))
        };
        count("external IPs", external(|e| e.ips = Box::default()));
        count("load balancers", external(|e| e.load_balancer_ips = Box::default()));
        count("source ranges", external(|e| e.source_ranges = Box::default()));
        count("external policy", external(|e| e.traffic_policy = TrafficPolicy::Cluster));
        let without = |s: &mut Service| s.ports.iter_mut().for_each(|port| port.node_port = None);
        count("NodePorts", services(o(), without));
        count("hidden Services", services(o(), |s| s.hidden = false));
        count("ExternalName", services(o(), |s| s.external_name = false));
        count("hidden slices", slices(o(), |s| s.hidden = false));
        count("ready", slices(o(), |s| s.endpoints.iter_mut().for_each(|e| e.ready = true)));
        count(
            "fallback",
            slices(o(), |s| {
                s.endpoints =
                    s.endpoints.iter().filter(|e| e.ready || !e.terminating).cloned().collect()
            }),
        );
        let zones = |s: &mut EndpointSlice| {
            s.endpoints.iter_mut().for_each(|e| e.hints.get_or_insert_default().zones.clear())
        };
        count("hints of zones", slices(o(), zones));
        let nodes = |s: &mut EndpointSlice| {
            s.endpoints.iter_mut().for_each(|e| e.hints.get_or_insert_default().nodes.clear())
        };
        count("hints of nodes", slices(o(), nodes));
        count(
            "node of endpoints",
            slices(o(), |s| {
                s.endpoints.iter_mut().for_each(|e| e.node_name = None);
            }),
        );
    }
    let expected = [
        ("affinity", 12),
        ("traffic policy", 8),
        ("age of Services on one address", 3),
        ("external IPs", 20),
        ("load balancers", 20),
        ("source ranges", 10),
        ("external policy", 4),
        ("NodePorts", 20),
        ("hidden Services", 8),
        ("ExternalName", 8),
        ("hidden slices", 3),
        ("ready", 8),
        ("fallback", 4),
        ("hints of zones", 1),
        ("hints of nodes", 2),
        ("node of endpoints", 4),
    ];
    assert_shares(&found, &expected);
}

#[test]
fn generated_pods_change_answers() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for (objects, pods) in samples((generate::objects(), generate::pods())) {
        let whole = answers(&[objects.clone(), pods.clone()].concat());
        let mut count = |name, without: Vec<Object>| {
            *found.entry(name).or_default() += usize::from(answers(&without) != whole);
        };
        count("Pods that end", objects.clone());
        let alike = services(objects.clone(), |s| s.publish_not_ready = false);
        count("publishNotReadyAddresses", [alike, pods.clone()].concat());
        let by_address = slices(objects.clone(), |s| {
            s.endpoints.iter_mut().for_each(|e| e.target = None);
        });
        count("UIDs", [by_address, pods].concat());
    }
    let expected = [("Pods that end", 5), ("publishNotReadyAddresses", 1), ("UIDs", 1)];
    assert_shares(&found, &expected);
}

#[test]
fn generated_nodes_have_every_class_of_destination() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for (objects, context) in samples((generate::objects(), generate::node_context())) {
        let index = index_of(&objects);
        let own = index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default();
        let mut kinds = BTreeMap::new();
        let mut add = |name, holds: bool| *kinds.entry(name).or_insert(false) |= holds;
        for address in generate::destinations() {
            use oracle::DestinationClass::*;
            let class = oracle::network(&objects, THIS_NODE, &context, address);
            add("this node", class == ThisNode);
            add("local pods", class == LocalPods);
            add("other node", class == OtherNode);
            add("remote pods", class == RemotePods);
            add("Services", class == Services);
            add("outside", class == Outside);
            let hop: Option<IpAddr> = oracle::route(&objects, THIS_NODE, address);
            add("route", hop.is_some());
            let others = index.nodes().filter(|n| n.name != THIS_NODE);
            let shared = others.flat_map(|n| &n.pod_cidrs).any(|net| net.contains(&address));
            add("range of two nodes", shared && own.iter().any(|net| net.contains(&address)));
        }
        for (name, holds) in kinds {
            *found.entry(name).or_default() += usize::from(holds);
        }
    }
    let expected = [
        ("this node", 10),
        ("local pods", 10),
        ("other node", 10),
        ("remote pods", 10),
        ("Services", 10),
        ("outside", 90),
        ("route", 10),
        ("range of two nodes", 5),
    ];
    assert_shares(&found, &expected);
}

#[test]
fn generated_changes_have_every_part_of_a_plan() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for steps in samples(steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        let mut parts = BTreeMap::new();
        for changes in steps {
            let plan = agent.apply_and_plan(&changes);
            for write in &plan.writes {
                let part = match write {
                    Write::Put { table, late: false, .. } => format!("put {}", table.name),
                    Write::Put { table, .. } => format!("put {} late", table.name),
                    Write::Delete { table, .. } => format!("delete {}", table.name),
                };
                *parts.entry(part).or_insert(false) |= !write.is_empty();
            }
            *parts.entry("stale UDP".to_owned()).or_insert(false) |= !plan.stale_udp.is_empty();
            rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        }
        for (name, holds) in parts {
            *found.entry(Box::leak(name.into_boxed_str())).or_default() += usize::from(holds);
        }
    }
    let expected = [
        ("put FRONTENDS", 50),
        ("put SLOTS", 30),
        ("put SERVICES", 30),
        ("put SERVICES late", 2),
        ("put BACKENDS", 30),
        ("put NETWORKS", 30),
        ("delete FRONTENDS", 30),
        ("delete SERVICES", 20),
        ("delete BACKENDS", 20),
        ("delete NETWORKS", 10),
        ("stale UDP", 10),
    ];
    assert_shares(&found, &expected);
}
