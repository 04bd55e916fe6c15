//! Fields of Services for access from outside the cluster, and odd addresses.

use sluice_core::model::*;

use super::{ip, read};

fn service(spec: &str, status: &str) -> Service {
    let yaml = format!("{{metadata: {{name: a}}, spec: {{{spec}}}, status: {{{status}}}}}");
    match read(Kind::Service, &yaml).unwrap() {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn external(spec: &str, status: &str) -> ExternalAccess {
    *service(spec, status).external.expect("access from outside")
}

#[test]
fn fields_of_a_load_balancer_are_converted() {
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000,
        externalIPs: [203.0.113.9], loadBalancerSourceRanges: [198.51.100.7/24, 'fd00::/8'],
        allocateLoadBalancerNodePorts: false, loadBalancerClass: example.com/class,
        ports: [{port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 0}]";
    let status = "loadBalancer: {ingress: [{ip: 203.0.113.1}]}";
    assert_eq!(
        external(spec, status),
        ExternalAccess {
            ips: [ip("203.0.113.9")].into(),
            load_balancer_ips: [ip("203.0.113.1")].into(),
            source_ranges: ["198.51.100.0/24", "fd00::/8"].map(|net| net.parse().unwrap()).into(),
            traffic_policy: TrafficPolicy::Local,
            health_check_node_port: Port::new(32_000),
        }
    );
    let ports = service(spec, status).ports;
    assert_eq!(
        ports.iter().map(|port| port.node_port).collect::<Vec<_>>(),
        [Port::new(30_080), None]
    );
}

#[test]
fn contract_1_4_addresses_of_load_balancers_are_those_in_the_status_with_mode_vip() {
    let status = "loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP},
        {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example.com}, {ip: 'fd00::1'}]}";
    for spec in ["type: LoadBalancer, loadBalancerClass: other", "type: ClusterIP", ""] {
        let vips = external(spec, status).load_balancer_ips;
        assert_eq!(*vips, [ip("203.0.113.1"), ip("203.0.113.2"), ip("fd00::1")], "{spec}");
    }
    assert_eq!(service("type: LoadBalancer", "loadBalancer: {ingress: null}").external, None);
}

#[test]
fn contract_1_7_odd_notations_of_addresses_and_ranges_are_read() {
    let spec = "externalIPs: [' 203.000.113.09 '], loadBalancerSourceRanges: [' 010.0.0.0/08 ']";
    let external = external(spec, "loadBalancer: {ingress: [{ip: 203.0.113.01}]}");
    assert_eq!(*external.ips, [ip("203.0.113.9")]);
    assert_eq!(*external.load_balancer_ips, [ip("203.0.113.1")]);
    assert_eq!(*external.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
}

/// The unspecified address would be the key of every NodePort.
#[test]
fn addresses_that_are_not_routable_are_no_external_addresses_and_no_endpoints() {
    let odd =
        "'0.0.0.0', 127.0.0.1, 169.254.1.1, 224.0.0.1, 255.255.255.255, '::', '::1', 'fe80::1', x";
    let spec = format!("externalIPs: [{odd}, 203.0.113.9]");
    assert_eq!(*external(&spec, "").ips, [ip("203.0.113.9")]);
    for address in odd.split(", ") {
        let status = format!("loadBalancer: {{ingress: [{{ip: {address}}}]}}");
        // The API accepts any address in the status; link-local ones are in use, for example 169.254.1.1.
        let link_local = address == "169.254.1.1" || address == "'fe80::1'";
        let external = service("type: LoadBalancer", &status).external;
        assert_eq!(external.is_some(), link_local, "{address}");
        let slice = format!(
            "{{metadata: {{name: s}}, addressType: IPv4, endpoints: [{{addresses: [{address}]}}]}}"
        );
        let Object::EndpointSlice(slice) = read(Kind::EndpointSlice, &slice).unwrap() else {
            panic!("kind")
        };
        assert_eq!(slice.endpoints.len(), 0, "{address}");
    }
}

#[test]
fn contract_2_4_policy_local_requires_access_from_outside() {
    let policy = "externalTrafficPolicy: Local";
    for (spec, expect) in [
        (format!("type: ClusterIP, {policy}"), TrafficPolicy::Cluster),
        (format!("type: ClusterIP, externalIPs: [203.0.113.9], {policy}"), TrafficPolicy::Local),
        (format!("type: NodePort, {policy}"), TrafficPolicy::Local),
        ("type: NodePort".to_owned(), TrafficPolicy::Cluster),
    ] {
        assert_eq!(service(&spec, "").external_traffic_policy(), expect, "{spec}");
    }
}

#[test]
fn contract_6_1_health_check_port_requires_a_load_balancer_with_policy_local() {
    let port = "healthCheckNodePort: 32000, externalIPs: [203.0.113.9]";
    for (spec, expect) in [
        (format!("type: LoadBalancer, externalTrafficPolicy: Local, {port}"), Port::new(32_000)),
        (format!("type: LoadBalancer, externalTrafficPolicy: Cluster, {port}"), None),
        (format!("type: NodePort, externalTrafficPolicy: Local, {port}"), None),
    ] {
        assert_eq!(external(&spec, "").health_check_node_port, expect, "{spec}");
    }
}
