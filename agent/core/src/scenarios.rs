//! Objects in, table dump out: one example for each thing that the contract says of ClusterIPs.
//!
//! The node is n1 in zone z1. Words: a port is `name/PROTOCOL:number`, an endpoint `address@node`
//! with `?unready`, `?terminating` or `?zone=z` behind it.

use std::net::IpAddr;

use crate::index::Index;
use crate::model::*;
use crate::tables::Tables;

/// Compiles the objects in their order and backwards, and compares the dump without networks.
fn check(objects: &[Object], expect: &str) {
    for backwards in [false, true] {
        let mut index = Index::new("n1");
        let mut objects = objects.to_vec();
        objects.push(Object::Node(Node {
            name: "n1".into(),
            zone: Some("z1".into()),
            ..Node::default()
        }));
        if backwards {
            objects.reverse();
        }
        objects.into_iter().for_each(|o| index.apply(Change::Apply(o)));
        let tables = Tables::full(&index, &NodeContext::default());
        let lines = |text: &str| {
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(lines(&crate::dump::tables(&tables)), lines(expect));
    }
}

fn object_name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name)
}

fn port(text: &str) -> (String, Protocol, Port) {
    let (name, rest) = text.split_once('/').expect("name/PROTOCOL:number");
    let (protocol, number) = rest.split_once(':').expect("name/PROTOCOL:number");
    let protocol = Protocol::from_api(Some(protocol)).expect("protocol");
    (name.into(), protocol, Port::new(number.parse::<i64>().expect("number")).expect("port"))
}

fn service(name: &str, addresses: &[&str], ports: &[&str]) -> Service {
    let ports = ports.iter().map(|p| port(p));
    Service {
        name: object_name(name),
        cluster_ips: addresses.iter().filter_map(|a| parse_ip(a)).collect(),
        ports: ports.map(|(name, protocol, port)| ServicePort { name, protocol, port }).collect(),
        ..Service::default()
    }
}

fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split('?');
    let (address, node) = words.next().and_then(|w| w.split_once('@')).expect("address@node");
    let mut e = Endpoint {
        address: parse_ip(address).expect("address"),
        ready: true,
        serving: true,
        terminating: false,
        node_name: Some(node.into()),
        hints: Hints::default(),
    };
    for word in words {
        match word.split_once('=') {
            Some((_, zone)) => e.hints.zones.push(zone.into()),
            None if word == "terminating" => (e.ready, e.terminating) = (false, true),
            None => (e.ready, e.serving) = (false, false),
        }
    }
    e
}

fn slice(name: &str, of: &str, ports: &[&str], endpoints: &[&str]) -> Object {
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|e| endpoint(e)).collect();
    let v6 = endpoints.iter().any(|e| matches!(e.address, IpAddr::V6(_)));
    let ports = ports.iter().map(|p| port(p));
    Object::EndpointSlice(EndpointSlice {
        name: object_name(name),
        service: Some(of.into()),
        hidden: false,
        address_type: if v6 { AddressType::Ipv6 } else { AddressType::Ipv4 },
        ports: ports
            .map(|(name, protocol, port)| EndpointPort {
                name: Some(name),
                protocol,
                port: Some(port),
            })
            .collect(),
        endpoints,
    })
}

#[test]
fn several_slices_ports_and_protocols() {
    check(
        &[
            Object::Service(service(
                "kube-system/kube-dns",
                &["10.96.0.10"],
                &["dns/UDP:53", "dns-tcp/TCP:53", "metrics/TCP:9153"],
            )),
            slice(
                "kube-system/kube-dns-a",
                "kube-dns",
                &["dns/UDP:53", "dns-tcp/TCP:53", "metrics/TCP:9153"],
                &["10.244.1.2@n1"],
            ),
            // The number comes from the slice and may differ; an endpoint may come twice.
            slice(
                "kube-system/kube-dns-b",
                "kube-dns",
                &["dns/UDP:1053", "dns-tcp/TCP:53"],
                &["10.244.2.2@n2", "10.244.1.2@n1"],
            ),
        ],
        "10.96.0.10:* kube-system/kube-dns:* reject
         10.96.0.10:53/TCP kube-system/kube-dns:dns-tcp/TCP -> 10.244.1.2:53 10.244.2.2:53
         10.96.0.10:53/UDP kube-system/kube-dns:dns/UDP -> 10.244.1.2:53 10.244.1.2:1053 10.244.2.2:1053
         10.96.0.10:9153/TCP kube-system/kube-dns:metrics/TCP -> 10.244.1.2:9153",
    );
}

#[test]
fn no_endpoint_rejects() {
    check(
        &[
            Object::Service(service("shop/db", &["10.96.0.7"], &["/TCP:5432"])),
            slice("shop/db-a", "db", &["/TCP:5432"], &["10.244.1.2@n1?unready"]),
        ],
        "10.96.0.7:* shop/db:* reject
         10.96.0.7:5432/TCP shop/db:TCP reject",
    );
}

#[test]
fn terminating_serve_when_no_ready_one_is_left() {
    check(
        &[
            Object::Service(service("shop/web", &["10.96.0.7"], &["/TCP:80"])),
            slice(
                "shop/web-a",
                "web",
                &["/TCP:80"],
                &["10.244.1.2@n1?terminating", "10.244.2.2@n2?unready"],
            ),
        ],
        "10.96.0.7:* shop/web:* reject
         10.96.0.7:80/TCP shop/web:TCP -> 10.244.1.2:80",
    );
}

#[test]
fn policy_local_drops_what_is_only_elsewhere() {
    let local = |name: &str, address: &str| {
        Object::Service(Service {
            internal_traffic_policy: TrafficPolicy::Local,
            ..service(name, &[address], &["/UDP:53"])
        })
    };
    check(
        &[
            local("shop/here", "10.96.0.1"),
            local("shop/there", "10.96.0.2"),
            local("shop/nowhere", "10.96.0.3"),
            slice("shop/a", "here", &["/UDP:53"], &["10.244.1.2@n1", "10.244.2.2@n2"]),
            slice("shop/b", "there", &["/UDP:53"], &["10.244.2.2@n2"]),
        ],
        "10.96.0.1:* shop/here:* reject
         10.96.0.1:53/UDP shop/here:UDP -> 10.244.1.2:53 unselected 10.244.2.2:53
         10.96.0.2:* shop/there:* reject
         10.96.0.2:53/UDP shop/there:UDP drop unselected 10.244.2.2:53
         10.96.0.3:* shop/nowhere:* reject
         10.96.0.3:53/UDP shop/nowhere:UDP reject",
    );
}

#[test]
fn zone_hints_keep_traffic_in_the_zone() {
    check(
        &[
            Object::Service(service("shop/web", &["10.96.0.7"], &["/TCP:80"])),
            slice(
                "shop/web-a",
                "web",
                &["/TCP:80"],
                &["10.244.1.2@n1?zone=z1", "10.244.2.2@n2?zone=z2", "10.244.3.2@n3?zone=z1"],
            ),
        ],
        "10.96.0.7:* shop/web:* reject
         10.96.0.7:80/TCP shop/web:TCP -> 10.244.1.2:80 10.244.3.2:80",
    );
}

#[test]
fn families_do_not_mix() {
    check(
        &[
            Object::Service(service("shop/web", &["fd00:96::7", "10.96.0.7"], &["/TCP:80"])),
            slice("shop/web-4", "web", &["/TCP:80"], &["10.244.1.2@n1"]),
            slice("shop/web-6", "web", &["/TCP:8080"], &["fd00:1::2@n1"]),
        ],
        "10.96.0.7:* shop/web:* reject
         10.96.0.7:80/TCP shop/web:TCP -> 10.244.1.2:80
         [fd00:96::7]:* shop/web:* reject
         [fd00:96::7]:80/TCP shop/web:TCP -> [fd00:1::2]:8080",
    );
}

#[test]
fn the_oldest_of_two_has_the_address_and_port() {
    let at = |name: &str, created: i64, ports: &[&str]| {
        Object::Service(Service { created, ..service(name, &["10.96.0.7"], ports) })
    };
    check(
        &[
            at("shop/new", 20, &["/TCP:80"]),
            at("shop/old", 10, &["/TCP:80"]),
            at("shop/other", 30, &["/TCP:81"]),
            slice("shop/a", "new", &["/TCP:80"], &["10.244.1.1@n1"]),
            slice("shop/b", "old", &["/TCP:80"], &["10.244.1.2@n1"]),
            slice("shop/c", "other", &["/TCP:81"], &["10.244.1.3@n1"]),
        ],
        "10.96.0.7:* shop/old:* reject
         10.96.0.7:80/TCP shop/old:TCP -> 10.244.1.2:80
         10.96.0.7:81/TCP shop/other:TCP -> 10.244.1.3:81
         conflict 10.96.0.7:80/TCP shop/old before shop/new",
    );
}

#[test]
fn none_of_our_business() {
    let plain = service("shop/web", &["10.96.0.7"], &["/TCP:80"]);
    check(
        &[
            Object::Service(Service {
                hidden: true,
                name: object_name("shop/labelled"),
                ..plain.clone()
            }),
            Object::Service(Service {
                external_name: true,
                name: object_name("shop/alias"),
                ..plain
            }),
            Object::Service(service("shop/headless", &["None"], &["/TCP:80"])),
            slice("shop/orphan", "nobody", &["/TCP:80"], &["10.244.1.1@n1"]),
        ],
        "",
    );
}

#[test]
fn session_affinity_is_carried() {
    check(
        &[Object::Service(Service {
            session_affinity: Some(10800),
            ..service("shop/web", &["10.96.0.7"], &["http/TCP:80"])
        })],
        "10.96.0.7:* shop/web:* reject
         10.96.0.7:80/TCP shop/web:http/TCP reject affinity 10800s",
    );
}
