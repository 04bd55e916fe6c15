//! Problems of single objects, which become Events on them.

use sluice_core::Change;
use sluice_core::diff::Capacity;
use sluice_core::model::{EndpointSlice, ExternalAccess, Kind, Object, Protocol, Service};

use crate::conditions::Concern;
use crate::event::Event;
use crate::harness::{Harness, delete, lists, node, service, slice, web, with_node_port};

fn apply(object: Object) -> Event {
    Event::Objects(Change::Apply(object))
}

#[tokio::test(start_paused = true)]
async fn service_that_is_not_served_is_found_when_it_changes() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
    let of = |name: &str, winner: &str| {
        let address = "10.96.0.1:80/TCP is used by";
        format!("shop/{name} AddressInUse: {address} Service shop/{winner}, which has precedence")
    };
    harness.apply(service("younger", Protocol::Tcp, "10.96.0.1", 5)).await;
    assert_eq!(harness.findings(), [of("younger", "web")]);
    harness.apply(service("youngest", Protocol::Tcp, "10.96.0.1", 6)).await;
    assert_eq!(harness.findings(), [of("younger", "web"), of("youngest", "web")]);
    // Endpoints are not claims.
    harness.apply(slice("younger", Protocol::Tcp, &["10.244.2.8"])).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
    // The one that loses its address is found, although it did not change.
    harness.apply(service("oldest", Protocol::Tcp, "10.96.0.1", 0)).await;
    assert_eq!(harness.findings(), [of("web", "oldest")]);
    harness.send([delete(Kind::Service, "shop/oldest"), delete(Kind::Service, "shop/web")]).await;
    assert_eq!(harness.findings(), [of("youngest", "younger")]);
}

/// The API server allocates each NodePort once; objects of a folder or of a repaired etcd can overlap.
#[tokio::test(start_paused = true)]
async fn service_whose_node_port_another_one_has_is_found() {
    let with = |name: &str, created: i64| {
        let Object::Service(service) = with_node_port(name, Protocol::Tcp, 30_080) else {
            panic!("a Service");
        };
        let cluster_ips = [[10, 96, 1, created as u8].into()].into();
        Object::Service(Service { created, cluster_ips, ..service })
    };
    let mut harness = Harness::ready_with(vec![with("old", 1)]).await;
    harness.apply(with("new", 2)).await;
    let used = "IPv4 NodePort 30080/TCP is used by Service shop/old, which has precedence";
    assert_eq!(harness.findings(), [format!("shop/new AddressInUse: {used}")]);
    let (_, message) = harness.status(Concern::Conflicts);
    assert!(message.contains("IPv4 NodePort 30080/TCP"), "{message}");
    harness.send([delete(Kind::Service, "shop/old")]).await;
    assert_eq!(harness.condition(Concern::Conflicts), None);
}

#[tokio::test(start_paused = true)]
async fn service_that_does_not_fit_is_found_and_the_condition_names_a_few() {
    let capacity = Capacity { services: 2, ..Capacity::default() };
    let mut harness = Harness::with_capacity(capacity, capacity);
    let name = |n: u8| format!("s{n:02}");
    let services = (0..40u8).map(|n| service(&name(n), Protocol::Tcp, &format!("10.96.1.{n}"), 1));
    harness.send(lists(services.collect())).await;
    let findings = harness.findings();
    assert!(
        findings[0].starts_with("shop/s02 NotEnoughCapacity: Service shop/s02"),
        "{findings:?}"
    );
    assert!((2..40).all(|n| findings.iter().any(|f| f.starts_with(&format!("shop/{}", name(n))))));
    let (_, message) = harness.status(Concern::Capacity);
    assert!(message.contains("shop/s11") && !message.contains("shop/s12"), "{message}");
    assert!(message.ends_with("and 28 more"), "{message}");
}

/// What the programs do: tests/packet/cases/contract_10_6_external_address_of_a_host.conv.
#[tokio::test(start_paused = true)]
async fn service_with_an_external_address_among_pods_is_found() {
    let with = |ips: &[&str], load_balancer_ips: &[&str]| {
        let Object::Service(web) = service("web", Protocol::Tcp, "10.96.0.1", 1) else {
            return vec![];
        };
        let addresses = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let external = ExternalAccess {
            ips: addresses(ips),
            load_balancer_ips: addresses(load_balancer_ips),
            ..ExternalAccess::default()
        };
        vec![Object::Service(Service { external: Some(Box::new(external)), ..web })]
    };
    let of = |address: &str, range: &str| {
        format!(
            "shop/web AddressInPodRange: external address {address} is not served: it is in the pod range \
             {range}, and packets to it go to the pod that has it"
        )
    };
    // Not an address of a pod, nor that of a node.
    let mut harness = Harness::ready_with(with(&["203.0.113.1"], &["172.18.0.2"])).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
    // A pod range of this node; then also one of another node, which comes later.
    harness.send(with(&["203.0.113.1", "10.244.1.7"], &[]).into_iter().map(apply)).await;
    assert_eq!(harness.findings(), [of("10.244.1.7", "10.244.1.0/24")]);
    harness.send(with(&[], &["10.244.2.7"]).into_iter().map(apply)).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
    harness.apply(node("n2", "172.18.0.3", "10.244.2.0/24")).await;
    assert_eq!(harness.findings(), [of("10.244.2.7", "10.244.2.0/24")]);
    // Endpoints change no address. A range of ClusterIPs among pods is a condition.
    harness.apply(slice("web", Protocol::Tcp, &["10.244.2.8"])).await;
    harness.apply(service("inside", Protocol::Tcp, "10.244.2.9", 1)).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn endpoint_with_an_address_that_cannot_be_used_is_found() {
    let invalid = |name: &str| {
        let Object::EndpointSlice(slice) = slice(name, Protocol::Tcp, &[]) else { return vec![] };
        let invalid = Some(Box::new([127, 0, 0, 1].into()));
        vec![Object::EndpointSlice(EndpointSlice { invalid, ..slice })]
    };
    let mut harness = Harness::ready_with(invalid("web")).await;
    let of = |name: &str| {
        let ignored = "endpoint 127.0.0.1 is ignored";
        format!(
            "shop/{name} InvalidEndpointAddress: {ignored}: it is not an address of another host or pod"
        )
    };
    assert_eq!(harness.findings(), [of("web")]);
    harness.apply(invalid("other").remove(0)).await;
    assert_eq!(harness.findings(), [of("other")]);
}
