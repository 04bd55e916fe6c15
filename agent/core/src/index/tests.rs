//! Changes of objects, and the Services that they make dirty.

use std::sync::Arc;

use super::*;
use crate::model::{Endpoint, EndpointPort, EndpointSlice, Port, Protocol, ServicePort, Uid};

fn slice(name: &str, service: &str) -> Object {
    Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new("shop", name),
        service: Some(service.into()),
        ..EndpointSlice::default()
    })
}

fn service(name: &str) -> Object {
    Object::Service(Service { name: ObjectName::new("shop", name), ..Service::default() })
}

fn node(name: &str, zone: Option<&str>) -> Object {
    Object::Node(Node { name: name.into(), zone: zone.map(Into::into), ..Node::default() })
}

fn dirty(index: &mut Index) -> Vec<String> {
    index.take_dirty().services.into_iter().map(|n| n.name.to_string()).collect()
}

#[test]
fn index_is_synced_when_nodes_services_and_slices_are_listed() {
    let mut index = Index::new("n1");
    for kind in [Kind::Service, Kind::Pod, Kind::EndpointSlice] {
        index.apply(Change::Replace(kind, vec![]));
        assert!(!index.synced());
    }
    index.apply(Change::Apply(node("n1", None)));
    assert!(!index.synced());
    index.apply(Change::Replace(Kind::Node, vec![]));
    assert!(index.synced());
    assert_eq!(index.nodes().count(), 0);
}

#[test]
fn slice_that_moves_to_another_service_makes_both_dirty() {
    let mut index = Index::new("n1");
    index.apply(Change::Apply(slice("s", "a")));
    assert_eq!(dirty(&mut index), ["a"]);
    index.apply(Change::Apply(slice("s", "b")));
    assert_eq!(dirty(&mut index), ["a", "b"]);
    index.apply(Change::Apply(slice("s", "b")));
    assert!(index.take_dirty().is_empty());
    index.apply(Change::Delete(Kind::EndpointSlice, ObjectName::new("shop", "s")));
    assert_eq!(index.changes(), Changes { services: 0, endpoint_slices: 3 });
}

#[test]
fn services_and_slices_share_their_names() {
    let with_port = |object| match object {
        Object::Service(service) => Object::Service(Service {
            ports: Box::new([ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(80).unwrap(),
                node_port: None,
            }]),
            ..service
        }),
        Object::EndpointSlice(slice) => Object::EndpointSlice(EndpointSlice {
            ports: Box::new([EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(80),
            }]),
            ..slice
        }),
        other => other,
    };
    let objects = || [service("a"), slice("s", "a")].map(with_port);
    let mut reversed = objects();
    reversed.reverse();
    for objects in [objects(), reversed] {
        let mut index = Index::new("n1");
        objects.into_iter().for_each(|object| index.apply(Change::Apply(object)));
        let service = index.services().next().unwrap();
        let slices: Vec<_> = index.slices_of(&service.name).collect();
        let slice = &*slices[0];
        assert!(Arc::ptr_eq(&service.name.namespace, &slice.name.namespace));
        assert!(Arc::ptr_eq(&service.name.name, slice.service.as_ref().unwrap()));
        assert!(Arc::ptr_eq(&service.ports[0].name, &slice.ports[0].name));
    }
}

#[test]
fn replacement_makes_only_differing_services_dirty() {
    let mut index = Index::new("n1");
    index.apply(Change::Replace(Kind::Service, vec![service("a"), service("b")]));
    assert_eq!(dirty(&mut index), ["a", "b"]);
    index.apply(Change::Replace(Kind::Service, vec![service("b"), service("c")]));
    assert_eq!(dirty(&mut index), ["a", "c"]);
    assert_eq!(index.changes(), Changes { services: 4, endpoint_slices: 0 });
}

#[test]
fn list_that_is_applied_object_by_object_deletes_the_others() {
    let mut index = Index::new("n1");
    for name in ["a", "b"] {
        index.apply(Change::Apply(service(name)));
    }
    assert!(!index.listed(Kind::Service));
    index.take_dirty();
    let names = vec![ObjectName::new("shop", "b")];
    index.apply(Change::Retain(Kind::Service, names));
    assert!(index.listed(Kind::Service));
    assert_eq!(dirty(&mut index), ["a"]);
}

#[test]
fn zone_of_this_node_makes_every_service_dirty() {
    let mut index = Index::new("n1");
    index.apply(Change::Replace(Kind::Service, vec![service("a"), service("b")]));
    index.take_dirty();
    index.apply(Change::Apply(node("n2", Some("z"))));
    let seen = index.take_dirty();
    assert!(seen.nodes && seen.services.is_empty());
    index.apply(Change::Apply(node("n1", Some("z"))));
    assert_eq!(dirty(&mut index), ["a", "b"]);
    index.apply(Change::Delete(Kind::Node, ObjectName::cluster("n1")));
    assert_eq!(dirty(&mut index), ["a", "b"]);
}
#[test]
fn service_cidr_makes_the_networks_dirty() {
    let mut index = Index::new("n1");
    index.take_dirty();
    let cidr = |net: &str| {
        let cidrs = [net.parse().expect("a range")].into();
        Object::ServiceCidr(ServiceCidr { name: "kubernetes".into(), cidrs })
    };
    for (change, dirty) in [
        (Change::Apply(cidr("10.96.0.0/16")), true),
        (Change::Apply(cidr("10.96.0.0/16")), false),
        (Change::Apply(cidr("10.97.0.0/16")), true),
        // The first list: the ranges are known.
        (Change::Retain(Kind::ServiceCidr, vec![ObjectName::cluster("kubernetes")]), true),
        (Change::Retain(Kind::ServiceCidr, vec![ObjectName::cluster("kubernetes")]), false),
        (Change::Retain(Kind::ServiceCidr, vec![]), true),
        (Change::Delete(Kind::ServiceCidr, ObjectName::cluster("kubernetes")), false),
    ] {
        index.apply(change.clone());
        assert_eq!(index.take_dirty().nodes, dirty, "{change:?}");
    }
    assert_eq!(index.service_cidrs().count(), 0);
}

#[test]
fn pod_makes_the_services_of_its_endpoints_dirty_when_it_ends() {
    let uid = |n: u8| Uid::from_api(&format!("{n:032x}"));
    let slice = |name: &str, service: &str, pods: &[u8]| {
        let endpoint = |n: &u8| Endpoint {
            address: [10, 0, 0, *n].into(),
            ready: true,
            serving: true,
            terminating: false,
            node_name: None,
            hints: None,
            target: uid(*n),
        };
        Change::Apply(Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("shop", name),
            service: Some(service.into()),
            endpoints: pods.iter().map(endpoint).collect(),
            ..EndpointSlice::default()
        }))
    };
    let pod = |n: u8, terminating| {
        let name = ObjectName::new("shop", format!("p{n}"));
        Change::Apply(Object::Pod(Pod { name, uid: uid(n), terminating, ..Pod::default() }))
    };
    let gone = |n: u8| Change::Delete(Kind::Pod, ObjectName::new("shop", format!("p{n}")));
    let mut index = Index::new("n1");
    for (change, expected) in [
        (slice("a-1", "a", &[1, 2]), &["a"][..]),
        (slice("a-2", "a", &[3]), &["a"]),
        (slice("b-1", "b", &[1]), &["b"]),
        (pod(1, false), &[]),
        (pod(2, false), &[]),
        (pod(1, true), &["a", "b"]),
        (pod(1, true), &[]),
        (pod(2, true), &["a"]),
        // Unknown to every slice.
        (pod(9, true), &[]),
        (gone(9), &[]),
        (gone(1), &["a", "b"]),
        // Deleted without a deletionTimestamp before.
        (pod(3, false), &[]),
        (gone(3), &["a"]),
        // A list is older than the deletion.
        (pod(3, false), &["a"]),
        (gone(3), &["a"]),
        (slice("a-1", "a", &[2]), &["a"]),
        (slice("b-1", "b", &[]), &["b"]),
    ] {
        index.apply(change.clone());
        assert_eq!(dirty(&mut index), expected, "{change:?}");
    }
    // Pods that no endpoint refers to are forgotten.
    let ended = |index: &Index| index.ending.len();
    assert_eq!(ended(&index), 2, "p2 terminates, p3 is referred to");
    index.apply(Change::Delete(Kind::EndpointSlice, ObjectName::new("shop", "a-2")));
    index.apply(gone(2));
    assert_eq!(ended(&index), 1, "a-1 refers to p2");
    index.apply(Change::Retain(Kind::EndpointSlice, vec![]));
    assert_eq!(ended(&index), 0);
}

#[test]
fn contract_6_2_distinct_ready_addresses_of_this_node_count() {
    let endpoint = |address: [u8; 4], node: &str, ready, terminating| Endpoint {
        address: address.into(),
        ready,
        serving: true,
        terminating,
        node_name: Some(node.into()),
        hints: None,
        target: Uid::from_api(&format!("{:032x}", address[3])),
    };
    let port =
        |n: i64| EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Port::new(n) };
    let slice = |name: &str, port: EndpointPort, endpoints: Vec<Endpoint>| {
        Change::Apply(Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("shop", name),
            service: Some("web".into()),
            ports: [port].into(),
            endpoints: endpoints.into(),
            ..EndpointSlice::default()
        }))
    };
    let mut index = Index::new("n1");
    let web = ObjectName::new("shop", "web");
    assert_eq!(index.local_ready_endpoints(&web), 0);
    let ready = endpoint([10, 244, 1, 1], "n1", true, false);
    let endpoints = vec![
        ready.clone(),
        endpoint([10, 244, 1, 2], "n1", true, false),
        endpoint([10, 244, 2, 3], "n2", true, false),
        endpoint([10, 244, 1, 4], "n1", false, false),
        endpoint([10, 244, 1, 5], "n1", false, true),
        Endpoint { node_name: None, ..endpoint([10, 244, 1, 6], "n1", true, false) },
    ];
    index.apply(slice("http", port(80), endpoints));
    index.apply(slice("https", port(443), vec![ready]));
    let without_port = EndpointPort { port: None, ..port(1) };
    let other = endpoint([10, 244, 1, 7], "n1", true, false);
    index.apply(slice("no-port", without_port, vec![other]));
    assert_eq!(index.local_ready_endpoints(&web), 2);
    // A Pod with a deletionTimestamp, before the slices change.
    index.apply(Change::Apply(Object::Pod(Pod {
        name: ObjectName::new("shop", "a"),
        uid: Uid::from_api(&format!("{:032x}", 1)),
        terminating: true,
        ..Pod::default()
    })));
    assert_eq!(index.local_ready_endpoints(&web), 1);
}

#[test]
fn objects_that_policies_depend_on_are_dirty_when_they_differ() {
    use std::sync::Arc;

    use crate::model::{NetworkPolicy, Pod};
    let name = |name: &str| ObjectName::new("shop", name);
    let pod = |labels: &[(&'static str, &'static str)]| {
        let labels = labels.iter().copied().collect();
        Change::Apply(Object::Pod(Pod { name: name("p"), labels, ..Pod::default() }))
    };
    let namespace = |label: &str| {
        let labels = BTreeMap::from([("team".to_owned(), label.to_owned())]);
        Change::Apply(Object::Namespace(Namespace { name: "shop".into(), labels }))
    };
    let policy = |ingress| {
        let policy = NetworkPolicy { name: name("deny"), ingress, ..NetworkPolicy::default() };
        Change::Apply(Object::NetworkPolicy(policy))
    };
    let node = |range: &str, zone: &str| {
        let pod_cidrs = vec![range.parse().expect("a range")];
        let zone = Some(zone.to_owned());
        Change::Apply(Object::Node(Node { name: "n1".into(), pod_cidrs, zone, ..Node::default() }))
    };
    let mut index = Index::new("n1");
    index.apply(pod(&[]));
    assert_eq!(index.take_policy_dirty(), PolicyDirty::everything(), "at the start");
    let none = PolicyDirty::default();
    let pods = PolicyDirty { pods: BTreeSet::from([name("p")]), ..none.clone() };
    let namespaces =
        PolicyDirty { namespaces: BTreeSet::from([Arc::from("shop")]), ..none.clone() };
    let policies = PolicyDirty { policies: BTreeSet::from([name("deny")]), ..none.clone() };
    let nodes = PolicyDirty { nodes: true, ..none.clone() };
    for (change, dirty) in [
        (pod(&[]), &none),
        (pod(&[("app", "web")]), &pods),
        (Change::Delete(Kind::Pod, name("p")), &pods),
        (Change::Delete(Kind::Pod, name("p")), &none),
        (namespace("a"), &namespaces),
        (namespace("a"), &none),
        (namespace("b"), &namespaces),
        (Change::Retain(Kind::Namespace, vec![]), &namespaces),
        (policy(None), &policies),
        (policy(None), &none),
        (policy(Some([].into())), &policies),
        (node("10.244.1.0/24", "z1"), &nodes),
        (node("10.244.1.0/24", "z2"), &none),
        (node("10.244.2.0/24", "z2"), &nodes),
        (Change::Delete(Kind::Node, ObjectName::cluster("n1")), &nodes),
    ] {
        index.apply(change.clone());
        assert_eq!(index.take_policy_dirty(), *dirty, "{change:?}");
    }
    assert_eq!(index.network_policies_of("shop").count(), 1);
    assert_eq!(index.network_policies_of("sho").count(), 0);
    index.apply(Change::Retain(Kind::NetworkPolicy, vec![]));
    assert_eq!(index.network_policies().count(), 0);
}
