//! Accept of ClusterNetworkPolicies: what it covers besides the first packet of a flow.

use std::net::IpAddr;

use packet_tests::*;
use sluice_abi::DropReason;
use sluice_core::generate;
use sluice_core::model::{
    ClusterNetworkPolicy, ClusterRule, LabelSelector, Namespace, Object, ObjectName, Operator, Pod,
    PodPhase, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec, Protocol, Requirement,
    RuleAction, Subject, Tier,
};
use sluice_core::policy::LocalPod;

use super::world::{From, World, send, write};
use super::{ACK, SYN_ACK, ack, error, syn};

fn pod(name: &str, address: [u8; 4]) -> Object {
    Object::Pod(Pod {
        name: ObjectName::new("shop", name),
        phase: PodPhase::Running,
        labels: [("app", name)].into_iter().collect(),
        ips: [IpAddr::from(address)].into_iter().collect(),
        node: Some(generate::THIS_NODE.into()),
        ..Pod::default()
    })
}

fn selector(app: &str) -> LabelSelector {
    let operator = Operator::In([app.into()].into());
    [Requirement { key: "app".into(), operator }].into_iter().collect()
}

fn rule(action: RuleAction, peer: Option<&str>, port: Option<(Protocol, u16)>) -> ClusterRule {
    let pods = peer.map(selector).unwrap_or_default();
    let peers = [PolicyPeer::Pods { namespaces: Some(LabelSelector::default()), pods }];
    let ports = port.and_then(|(protocol, number)| {
        Some(PolicyPort { protocol, ports: PortSpec::Number(Port::new(number)?) })
    });
    let matches = PolicyRule { peers: peers.into(), ports: ports.into_iter().collect() };
    ClusterRule { name: "".into(), action, matches, invalid: None }
}

/// Everything between pods is denied in both directions but TCP 80 and UDP 53 from the client to the servers.
fn policies(tier: Tier) -> [Object; 3] {
    let services = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
    let accept = |peer| services.map(|service| rule(RuleAction::Accept, Some(peer), Some(service)));
    let deny = || rule(RuleAction::Deny, None, None);
    let policy = |name: &str, priority, pods, ingress: Vec<_>, egress: Vec<_>| {
        Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
            name: name.into(),
            uid: None,
            tier,
            priority,
            subject: Subject { pods, ..Subject::default() },
            ingress: ingress.into(),
            egress: egress.into(),
        })
    };
    let egress = [accept("server"), accept("far")].concat();
    [
        policy("client", 1, selector("client"), Vec::new(), egress),
        policy("server", 1, selector("server"), accept("client").to_vec(), Vec::new()),
        policy("deny", 2, LabelSelector::default(), vec![deny()], vec![deny()]),
    ]
}

/// A node with two pods of this node, and one of another.
fn node(tier: Tier) -> Datapath {
    let pods = [("client", CLIENT), ("server", SERVER), ("far", FAR_POD)];
    let mut objects: Vec<Object> = policies(tier).into();
    objects.extend(pods.map(|(name, address)| pod(name, address)));
    objects.push(Object::Namespace(Namespace { name: "shop".into(), ..Namespace::default() }));
    let leases = pods[..2].iter().zip(1..).map(|((name, address), index)| LocalPod {
        index,
        generation: 1,
        address: IpAddr::from(*address),
        name: Some(ObjectName::new("shop", *name)),
        uid: None,
    });
    let datapath = Datapath::node();
    write(&datapath, &World::new(objects, leases.collect()));
    datapath
}

/// Each packet passes from the client to the server and back; nothing else does.
#[test]
fn contract_9_6_accept_covers_replies_and_related_errors_in_both_tiers() {
    for tier in [Tier::Admin, Tier::Baseline] {
        let datapath = node(tier);
        let from_client = |packet: &Packet| send(&datapath, From::Pod, packet);
        let from_server = from_client;
        let (client, server) = ((CLIENT, PORT), (SERVER, 80));

        // TCP: the client's ingress and the server's egress are denied, and hold for other flows only.
        from_client(&syn(client, server)).to_pod(&[]);
        from_server(&Packet::tcp(server, client, SYN_ACK, b"")).to_pod(&[]);
        from_client(&ack(client, server)).to_pod(&[]);
        from_server(&Packet::tcp(server, client, ACK, b"page")).to_pod(&[]);
        // Errors about the flow, from either end.
        from_server(&error(SERVER, CLIENT, 4, &ack(client, server))).to_pod(&[]);
        from_client(&error(CLIENT, SERVER, 4, &ack(server, client))).to_pod(&[]);
        // UDP.
        let (query, answer) = ((CLIENT, PORT), (SERVER, 53));
        from_client(&Packet::udp(query, answer, b"?")).to_pod(&[]);
        from_server(&Packet::udp(answer, query, b"!")).to_pod(&[]);
        let refused = Packet::udp(query, answer, b"?");
        from_server(&error(SERVER, CLIENT, 3, &refused)).to_pod(&[]);

        // A server of another node; a router reports the error.
        let far = (FAR_POD, 80);
        from_client(&syn(client, far)).to_uplink(&[]);
        datapath.from_netdev(&Packet::tcp(far, client, SYN_ACK, b"")).to_pod(&[]);
        from_client(&ack(client, far)).to_uplink(&[]);
        datapath.from_netdev(&error(ROUTER, CLIENT, 4, &ack(client, far))).to_pod(&[]);

        // Flows of the other end, to the same port too, and errors about no flow.
        from_server(&syn((SERVER, PORT), (CLIENT, 80))).dropped(DropReason::PolicyEgress);
        from_server(&syn((SERVER, 80), (CLIENT, 9))).dropped(DropReason::PolicyEgress);
        datapath.from_netdev(&syn((FAR_POD, 80), (CLIENT, 9))).dropped(DropReason::PolicyIngress);
        from_client(&syn((CLIENT, PORT), (SERVER, 81))).dropped(DropReason::PolicyEgress);
        let of_none = error(SERVER, CLIENT, 4, &ack((CLIENT, 9), server));
        from_server(&of_none).dropped(DropReason::NotTracked);
        let of_none = error(FAR_POD, CLIENT, 4, &ack((CLIENT, 9), far));
        datapath.from_netdev(&of_none).dropped(DropReason::NotTracked);
    }
}
