//! Flows of pods: what is judged, and at which ends.

use super::*;

/// What the fake translates: TCP 80 of 10.0.0.1 to endpoints 192.0.0.1:8080 and later ports.
#[test]
fn destination_that_a_service_translates_is_judged_by_its_endpoints() {
    let allow = "
- kind: NetworkPolicy
  metadata: {name: out, namespace: shop}
  spec:
    podSelector: {}
    policyTypes: [Egress]
    egress: [{to: [{ipBlock: {cidr: 192.0.0.0/16}}], ports: [{port: 8080}]}]
";
    let mut fake = fake_with(allow);
    fake.add("shop", 1, proto::TCP, 2);
    fake.add("shop", 2, proto::TCP, 0);
    fake.add("shop", 3, proto::TCP, 40);
    let to = |text: &str, port| FlowQuery {
        direction: Direction::Egress,
        peer: address(text),
        protocol: proto::TCP,
        port,
    };
    let flow = |text, port| row_of(&fake, "shop/db-0", Some(to(text, port))).flow.unwrap();
    let found = flow("10.0.0.1", 80);
    assert_eq!(found.translated_by.as_deref(), Some("Service shop/s-1 (ClusterIP)"));
    let judged: Vec<_> =
        found.judged.iter().map(|j| (j.peer.to_string(), j.port, j.verdict.allowed)).collect();
    let endpoint = |port, allowed| ("192.0.0.1".to_owned(), port, allowed);
    assert_eq!(judged, [endpoint(8080, true), endpoint(8081, false)]);
    let none = flow("10.0.0.2", 80);
    assert!(none.judged.is_empty() && none.problem.unwrap().contains("no endpoint"));
    let many = flow("10.0.0.3", 80);
    assert_eq!((many.judged.len(), many.more), (16, 24));
    // Not a port of it.
    let other = flow("10.0.0.1", 81);
    assert_eq!((other.translated_by, other.judged.len()), (None, 1));
    // A client is not translated.
    let from = FlowQuery { direction: Direction::Ingress, ..to("10.0.0.1", 80) };
    assert_eq!(row_of(&fake, "shop/db-0", Some(from)).flow.unwrap().translated_by, None);
}

#[test]
fn both_ends_of_a_flow_between_pods_are_judged() {
    let fake = fake();
    let of = |pod: &str, direction, peer: &str, port| {
        let peer = FlowPeer::Pod(peer.to_owned());
        let flow = FlowQuery { direction, peer, protocol: proto::TCP, port };
        row_of(&fake, pod, Some(flow)).flow.unwrap()
    };
    let ends = |flow: FlowRow| {
        let [JudgedFlow { peer, verdict, other_end, .. }] = &flow.judged[..] else {
            panic!("{flow:?}")
        };
        let other = other_end.as_ref().map(|end| (end.pod.clone(), end.verdict.allowed));
        (peer.to_string(), verdict.allowed, other)
    };
    let other = |pod: &str, allowed| Some((pod.to_owned(), allowed));
    // web may reach db, but is isolated for egress.
    assert_eq!(
        ends(of("shop/db-0", Direction::Ingress, "shop/web-0", 5432)),
        ("10.244.2.8".to_owned(), true, other("shop/web-0", false))
    );
    assert_eq!(
        ends(of("shop/db-0", Direction::Ingress, "lab/web-1", 80)),
        ("10.244.2.9".to_owned(), false, other("lab/web-1", true))
    );
    assert_eq!(
        ends(of("lab/web-1", Direction::Egress, "shop/db-0", 5432)),
        ("10.244.1.7".to_owned(), true, other("shop/db-0", true))
    );
    let none = of("shop/db-0", Direction::Egress, "shop/none", 80);
    assert!(none.judged.is_empty() && none.problem.is_some(), "{none:?}");
    // By its address, too.
    let from = FlowQuery {
        direction: Direction::Ingress,
        peer: address("10.244.2.8"),
        protocol: proto::TCP,
        port: 5432,
    };
    let by_address = row_of(&fake, "shop/db-0", Some(from)).flow.unwrap();
    assert_eq!(ends(by_address).2, other("shop/web-0", false));
}

/// What a pod sends to itself does not reach the programs, unless a Service leads back to it.
#[test]
fn own_address_of_a_pod_passes() {
    let mut fake = fake();
    fake.add("shop", 1, proto::TCP, 1);
    let allowed = |fake: &Fake, direction, peer: &str| {
        let flow = FlowQuery { direction, peer: address(peer), protocol: proto::TCP, port: 80 };
        let row = row_of(fake, "shop/db-0", Some(flow)).flow.unwrap();
        (row.judged[0].verdict.allowed, row.judged[0].other_end.is_some())
    };
    for peer in ["10.244.1.7", "127.0.0.1"] {
        assert_eq!(allowed(&fake, Direction::Egress, peer), (true, false), "{peer}");
    }
    assert_eq!(allowed(&fake, Direction::Ingress, "10.244.1.7"), (true, false));
    assert!(!allowed(&fake, Direction::Egress, "10.0.0.1").0);
    let own = fake.local[0].address;
    for (_, port) in fake.frontends.values_mut() {
        port.as_mut().unwrap().cluster.iter_mut().for_each(|backend| backend.addr = own.into());
    }
    assert_eq!(allowed(&fake, Direction::Egress, "10.0.0.1"), (true, false));
    // ClusterNetworkPolicies judge it at both ends.
    let mut judged = fake_with(CLUSTER);
    judged.frontends = fake.frontends;
    assert_eq!(allowed(&judged, Direction::Egress, "10.0.0.1"), (false, true));
}
