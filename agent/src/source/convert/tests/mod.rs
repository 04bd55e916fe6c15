//! Conversion of API objects: defaults, optional fields and invalid values.

mod cluster_network_policy;
mod external;
mod manifest;
mod network_policy;

use sluice_core::model::*;

use super::*;

fn read(kind: Kind, yaml: &str) -> Result<Object, ConvertError> {
    object(kind, serde_yaml::Deserializer::from_str(yaml))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn fields_of_a_node_are_converted() {
    let yaml = "
metadata:
  name: worker
  labels: {topology.kubernetes.io/zone: a, kubernetes.io/arch: amd64}
  managedFields: [{manager: kubelet, fieldsV1: {'f:status': {}}}]
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 172.18.0.3}
  - {type: Hostname, address: worker}
  - {type: ExternalIP, address: 203.0.113.3}
  - {type: InternalIP, address: 'fc00::3'}
  images: [{names: [a, b], sizeBytes: 1}]
";
    assert_eq!(
        read(Kind::Node, yaml).unwrap(),
        Object::Node(Node {
            name: "worker".into(),
            internal_ips: vec![ip("172.18.0.3"), ip("fc00::3")],
            external_ips: vec![ip("203.0.113.3")],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            labels: [(ZONE_LABEL, "a"), ("kubernetes.io/arch", "amd64")].into_iter().collect(),
            zone: Some("a".into()),
            leaving: false,
        })
    );
}

#[test]
fn node_that_is_deleted_or_tainted_by_the_autoscaler_is_leaving() {
    for (yaml, expected) in [
        ("{metadata: {name: n}, spec: {taints: [{key: a, effect: NoSchedule}]}}", false),
        ("{metadata: {name: n}, spec: {taints: null}}", false),
        ("{metadata: {name: n, deletionTimestamp: '2026-01-01T00:00:00Z'}}", true),
        ("{metadata: {name: n}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler}]}}", true),
    ] {
        let Object::Node(node) = read(Kind::Node, yaml).unwrap() else { panic!("kind") };
        assert_eq!(node.leaving, expected, "{yaml}");
    }
}

#[test]
fn singular_pod_cidr_is_used_without_the_list_and_null_is_empty() {
    let Object::Node(n) =
        read(Kind::Node, "{metadata: {name: n}, spec: {podCIDR: 010.244.001.0/24}}").unwrap()
    else {
        panic!("kind")
    };
    assert_eq!(n.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
    let Object::Node(n) =
        read(Kind::Node, "{metadata: {name: n}, spec: {podCIDRs: null}}").unwrap()
    else {
        panic!("kind")
    };
    assert_eq!((n.pod_cidrs.len(), n.internal_ips.len()), (0, 0));
}

#[test]
fn fields_of_a_service_are_converted_and_invalid_ports_left_out() {
    let yaml = "
metadata:
  {name: orders, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z', labels: {app: x}}
spec:
  type: NodePort
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, 'fd00:96::14']
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: odd, port: 1, protocol: QUIC}
  - {name: none, port: 0}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  internalTrafficPolicy: Local
";
    let Object::Service(s) = read(Kind::Service, yaml).unwrap() else { panic!("kind") };
    assert_eq!(s.name.to_string(), "shop/orders");
    assert_eq!(s.created, 1_767_323_045);
    assert_eq!(*s.cluster_ips, [ip("10.96.0.20"), ip("fd00:96::14")]);
    assert_eq!(s.session_affinity, Some(60));
    assert_eq!(s.internal_traffic_policy, TrafficPolicy::Local);
    let ports: Vec<_> = s.ports.iter().map(|p| (&*p.name, p.protocol, p.port.get())).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
    assert!(!s.hidden && !s.external_name);
}

#[test]
fn services_without_a_cluster_ip_are_converted() {
    for (yaml, external, hidden) in [
        ("{metadata: {name: a}, spec: {clusterIP: None}}", false, false),
        ("{metadata: {name: a}, spec: {clusterIP: ''}}", false, false),
        ("{metadata: {name: a}, spec: {type: ExternalName, externalName: b.c}}", true, false),
        (
            "{metadata: {name: a, labels: {service.kubernetes.io/headless: ''}}, spec: {}}",
            false,
            true,
        ),
    ] {
        let Object::Service(s) = read(Kind::Service, yaml).unwrap() else { panic!("kind") };
        assert_eq!(
            (s.cluster_ips.len(), s.external_name, s.hidden),
            (0, external, hidden),
            "{yaml}"
        );
        assert_eq!(s.name.to_string(), "default/a");
        assert_eq!(s.session_affinity, None);
    }
}

#[test]
fn timeout_of_affinity_is_within_the_limits_of_the_api() {
    for (config, want) in [
        ("{}", 10_800),
        ("{clientIP: null}", 10_800),
        ("{clientIP: {timeoutSeconds: 1}}", 1),
        ("{clientIP: {timeoutSeconds: 86400}}", 86_400),
        ("{clientIP: {timeoutSeconds: 86401}}", 10_800),
        ("{clientIP: {timeoutSeconds: 0}}", 10_800),
        ("{clientIP: {timeoutSeconds: -1}}", 10_800),
    ] {
        let spec = format!("{{sessionAffinity: ClientIP, sessionAffinityConfig: {config}}}");
        let yaml = format!("{{metadata: {{name: a}}, spec: {spec}}}");
        let Object::Service(s) = read(Kind::Service, &yaml).unwrap() else { panic!("kind") };
        assert_eq!(s.session_affinity, Some(want), "{config}");
    }
}

#[test]
fn conditions_hints_and_ports_of_a_slice_are_converted() {
    let yaml = "
metadata: {name: orders-x, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
- {port: 9}
- {name: gone, port: null}
endpoints:
- addresses: [10.244.1.7, 10.244.1.8]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: worker
  hints: {forZones: [{name: a}], forNodes: [{name: worker}]}
  targetRef: {kind: Pod, uid: 6f1c2a34-0000-4000-8000-00000000000a}
- addresses: [10.244.2.7]
  conditions: {ready: false, terminating: true}
  nodeName: ''
  targetRef: {kind: Node, uid: 6f1c2a34-0000-4000-8000-00000000000b}
- addresses: [10.244.2.8]
  nodeName: null
  targetRef: {kind: Pod, uid: other}
- addresses: []
- addresses: [host.example]
";
    let Object::EndpointSlice(s) = read(Kind::EndpointSlice, yaml).unwrap() else { panic!("kind") };
    assert_eq!(s.service_name().unwrap().to_string(), "shop/orders");
    assert_eq!(s.address_type, AddressType::Ipv4);
    let ports: Vec<_> = s.ports.iter().map(|p| (&*p.name, p.port.map(Port::get))).collect();
    assert_eq!(ports, [("http", Some(8080)), ("", Some(9)), ("gone", None)]);
    let states: Vec<_> = s
        .endpoints
        .iter()
        .map(|e| (e.address.to_string(), e.ready, e.serving, e.terminating))
        .collect();
    assert_eq!(
        states,
        [
            ("10.244.1.7".to_owned(), true, true, false),
            ("10.244.2.7".to_owned(), false, true, true),
            ("10.244.2.8".to_owned(), true, true, false),
        ]
    );
    assert_eq!(s.endpoints[0].zone_hints(), ["a"]);
    assert_eq!(s.endpoints[0].node_hints(), ["worker"]);
    let nodes: Vec<_> = s.endpoints.iter().map(|e| e.node_name.as_deref()).collect();
    assert_eq!(nodes, [Some("worker"), None, None]);
    let targets: Vec<_> = s.endpoints.iter().map(|e| e.target).collect();
    assert_eq!(targets, [Uid::from_api("6f1c2a34-0000-4000-8000-00000000000a"), None, None]);
}

#[test]
fn label_that_hides_an_object_counts_whatever_its_value_is() {
    for (labels, hidden) in [
        ("{service.kubernetes.io/headless: null}", true),
        ("{service.kubernetes.io/headless: ''}", true),
        ("{service.kubernetes.io/service-proxy-name: other}", true),
        ("{service.kubernetes.io/name: other}", false),
        ("null", false),
    ] {
        let yaml = format!("metadata: {{name: a, namespace: b, labels: {labels}}}");
        match read(Kind::Service, &yaml).unwrap() {
            Object::Service(service) => assert_eq!(service.hidden, hidden, "{labels}"),
            other => panic!("{other:?}"),
        }
        match read(Kind::EndpointSlice, &yaml).unwrap() {
            Object::EndpointSlice(slice) => assert_eq!(slice.hidden, hidden, "{labels}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn fields_of_a_pod_are_converted() {
    let yaml = "
metadata:
  {name: p, namespace: shop, uid: 6f1c2a34-0000-4000-8000-00000000000a, labels: {app: web},
   deletionTimestamp: '2026-01-02T03:04:05Z'}
spec:
  nodeName: worker
  hostNetwork: true
  containers:
  - {name: c, ports: [{name: http, containerPort: 80}, {containerPort: 81}, {name: x, containerPort: 0}]}
  - {name: d, ports: null}
  initContainers:
  - {name: i, ports: [{name: init, containerPort: 82}]}
  - {name: s, restartPolicy: Always, ports: [{name: dns, containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.244.1.7, podIPs: [{ip: 10.244.1.7}, {ip: 'fd00::7'}]}
";
    let Object::Pod(p) = read(Kind::Pod, yaml).unwrap() else { panic!("kind") };
    assert_eq!(p.ips.iter().collect::<Vec<_>>(), [ip("10.244.1.7"), ip("fd00::7")]);
    assert_eq!(
        (p.phase, p.host_network, p.node.as_deref(), p.terminating),
        (PodPhase::Running, true, Some("worker"), true)
    );
    assert_eq!(p.uid, Uid::from_api("6f1c2a34-0000-4000-8000-00000000000a"));
    assert_eq!(p.labels.iter().collect::<Vec<_>>(), [("app", "web")]);
    let ports: Vec<_> = p.ports.iter().map(|p| (&*p.name, p.protocol, p.port.get())).collect();
    assert_eq!(ports, [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
}

#[test]
fn endpoint_refers_to_its_pod_by_uid() {
    let uid = "6f1c2a34-0000-4000-8000-00000000000a";
    let yaml = format!(
        "
metadata: {{name: s}}
addressType: IPv4
endpoints:
- {{addresses: [10.244.1.1], targetRef: {{kind: Pod, namespace: default, name: p, uid: {uid}}}}}
- {{addresses: [10.244.1.2], targetRef: {{kind: Node, name: p, uid: {uid}}}}}
- {{addresses: [10.244.1.3], targetRef: {{kind: Pod, name: p}}}}
"
    );
    let Object::EndpointSlice(s) = read(Kind::EndpointSlice, &yaml).unwrap() else {
        panic!("kind")
    };
    let targets: Vec<_> = s.endpoints.iter().map(|e| e.target).collect();
    assert_eq!(targets, [Uid::from_api(uid), None, None]);
}

#[test]
fn ranges_of_a_service_cidr_are_converted() {
    let yaml = "{metadata: {name: kubernetes}, spec: {cidrs: [010.96.0.7/16, 'fd00::/108', x]}}";
    let Object::ServiceCidr(o) = read(Kind::ServiceCidr, yaml).unwrap() else { panic!("kind") };
    let cidrs: Vec<String> = o.cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(
        (o.name.as_str(), cidrs),
        ("kubernetes", vec!["10.96.0.0/16".into(), "fd00::/108".into()])
    );
}

#[test]
fn object_without_a_name_is_rejected() {
    assert_eq!(
        read(Kind::Node, "{spec: {}}").unwrap_err().to_string(),
        "Node without metadata.name"
    );
    assert_eq!(
        read(Kind::Service, "{metadata: {name: ''}}").unwrap_err().to_string(),
        "Service without metadata.name"
    );
}

/// As kubectl does; a name without a namespace is that of a cluster-wide object.
#[test]
fn empty_namespace_is_the_default_one() {
    for kind in [Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::NetworkPolicy] {
        let object = read(kind, "{metadata: {name: a, namespace: ''}}").unwrap();
        assert_eq!(object.name().to_string(), "default/a");
    }
}

#[test]
fn json_is_one_object_of_the_kind() {
    let json = br#"{"kind":"Node","metadata":{"name":"n"},"status":{"addresses":null}}"#;
    assert_eq!(from_json(Kind::Node, json).unwrap().name().to_string(), "n");
    for (json, want) in [
        (&b"{"[..], "Node: EOF"),
        (br#"{"metadata":{"name":"n"}} x"#, "Node: trailing characters"),
        (br#"{"metadata":{"name":3}}"#, "Node: invalid type: integer `3`"),
        (br#"{"metadata":{}}"#, "Node without metadata.name"),
    ] {
        let e = from_json(Kind::Node, json).unwrap_err().to_string();
        assert!(e.starts_with(want), "{e}");
    }
}

#[test]
fn every_kind_has_its_name_and_its_conversion() {
    for kind in Kind::ALL {
        assert_eq!(kind_from_name(kind_name(kind)), Some(kind));
        let object = read(kind, "{metadata: {name: a}}").unwrap();
        assert_eq!(object.kind(), kind);
    }
    assert_eq!(kind_from_name("ConfigMap"), None);
}

#[test]
fn cause_of_a_change_is_the_time_in_the_annotation() {
    let trigger = |annotations: serde_json::Value| {
        let json = serde_json::json!({
            "metadata": {"namespace": "shop", "name": "web-1", "annotations": annotations},
            "addressType": "IPv4",
        });
        match from_json(Kind::EndpointSlice, json.to_string().as_bytes()).unwrap() {
            Object::EndpointSlice(slice) => slice.trigger,
            other => panic!("{other:?}"),
        }
    };
    let key = api_types::TRIGGER;
    let time = "2026-11-26T10:00:00.25Z";
    assert_eq!(trigger(serde_json::json!({key: time, "other": "text"})), Some(1_795_687_200_250));
    for absent in [serde_json::json!(null), serde_json::json!({key: "yesterday"})] {
        assert_eq!(trigger(absent), None);
    }
}
