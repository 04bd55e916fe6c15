//! Flows with translated addresses: a change judges them by their backend and by the client before
//! translation, also where the main entry was evicted.

use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, Frontend, Outcome, PolicyPorts, frontend_flags, proto};

use super::{NONE, SYN_ACK, WEB, ack, error, node_port, syn, web_port};

/// Class of EXTERNAL.
const OUTSIDE: u64 = 5;
/// Class of NODE.
const OF_NODE: u64 = 6;
const CLIENT_END: Endpoint = (CLIENT, PORT);
const SERVICE: Endpoint = (VIP, 80);
const BACKEND: Endpoint = (SERVER, 8080);

fn backend_port() -> PolicyPorts {
    PolicyPorts::range(proto::TCP, 8080, 8080)
}

/// A node whose pods are not isolated, and whose policies are known. CLIENT has the class WEB, SERVER the
/// next one.
fn node() -> Datapath {
    let datapath = Datapath::node();
    datapath.rejudge(CLIENT);
    datapath.rejudge(SERVER);
    datapath.class(CLIENT, Some(WEB));
    datapath.class(SERVER, Some(WEB + 1));
    datapath.network_class(EXTERNAL, 32, OUTSIDE);
    datapath.network_class(NODE, 32, OF_NODE);
    datapath
}

/// A NodePort for TCP, 30080, whose external clients keep their addresses.
fn local_node_port(datapath: &Datapath, backends: &[Endpoint]) {
    let sets = Sets { cluster: backends.to_vec(), local: backends.to_vec(), ..Sets::default() };
    datapath.service_port(7, proto::TCP, &sets);
    let flags = frontend_flags::EXTERNAL | frontend_flags::LOCAL;
    datapath.frontend(([0; 4], 30_080, proto::TCP), Frontend { service: 7, flags });
}

/// Opens a TCP connection from CLIENT to a Service with these backends, with three segments. Returns the
/// port of the backend, which SERVER is.
fn connect(datapath: &Datapath, backends: &[Endpoint]) -> u16 {
    datapath.service(7, (VIP, 80, proto::TCP), backends);
    let opened = datapath.from_pod(CLIENT_IFINDEX, &syn(CLIENT_END, SERVICE));
    let port = opened.to_pod(&[Outcome::Translated]).dport();
    let reply = Packet::tcp((SERVER, port), CLIENT_END, SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[Outcome::Restored]);
    let segment = ack(CLIENT_END, SERVICE);
    datapath.from_pod(CLIENT_IFINDEX, &segment).to_pod(&[Outcome::Translated]);
    port
}

/// A segment of a connection to a Service that has no flow is judged by a backend: where policies deny that, there is no
/// answer.
#[test]
fn contract_5_9_policies_come_before_the_reset_of_a_segment_without_flow() {
    let datapath = node();
    datapath.service(7, (VIP, 80, proto::TCP), &[BACKEND]);
    let from_pod = || datapath.from_pod(CLIENT_IFINDEX, &ack(CLIENT_END, SERVICE));
    from_pod().rejected(DropReason::NotTracked);
    datapath.isolate(CLIENT, Egress, &[], NONE);
    from_pod().dropped(DropReason::PolicyEgress);
    datapath.isolate(CLIENT, Egress, &[(WEB + 1, backend_port())], NONE);
    from_pod().rejected(DropReason::NotTracked);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    from_pod().dropped(DropReason::PolicyIngress);
    local_node_port(&datapath, &[BACKEND]);
    let from_netdev = || datapath.from_netdev(&ack((EXTERNAL, 5000), (NODE, 30_080)));
    from_netdev().dropped(DropReason::PolicyIngress);
    datapath.isolate(SERVER, Ingress, &[(OUTSIDE, backend_port())], NONE);
    from_netdev().rejected(DropReason::NotTracked);
    assert!(datapath.flows().is_empty());
}

#[test]
fn a_flow_to_a_service_is_judged_again_by_its_backend() {
    let datapath = node();
    connect(&datapath, &[BACKEND]);
    let forward = || datapath.from_pod(CLIENT_IFINDEX, &ack(CLIENT_END, SERVICE));
    let reply = || datapath.from_pod(SERVER_IFINDEX, &ack(BACKEND, CLIENT_END));
    for (pod, direction, peer, reason) in [
        (SERVER, Ingress, WEB, DropReason::PolicyIngress),
        (CLIENT, Egress, WEB + 1, DropReason::PolicyEgress),
    ] {
        datapath.isolate(pod, direction, &[(peer, backend_port())], NONE);
        forward().to_pod(&[Outcome::Translated]);
        datapath.rejudge(pod);
        reply().to_pod(&[Outcome::Restored]);
        // The port of the Service is not that of the backend.
        datapath.isolate(pod, direction, &[(peer, web_port())], NONE);
        forward().dropped(reason);
        reply().dropped(reason);
        datapath.release(pod, direction);
    }
    forward().to_pod(&[Outcome::Translated]);
}

#[test]
fn a_node_port_flow_is_judged_again_by_its_external_client() {
    let masqueraded = [Outcome::Translated, Outcome::Masqueraded];
    for keeps_source in [false, true] {
        let datapath = node();
        let write = if keeps_source { local_node_port } else { node_port };
        let outcomes = if keeps_source { &masqueraded[..1] } else { &masqueraded[..] };
        write(&datapath, &[BACKEND]);
        let (client, frontend) = ((EXTERNAL, PORT), (NODE, 30_080));
        let opened = datapath.from_netdev(&syn(client, frontend)).to_pod(outcomes);
        assert_eq!(opened.src == EXTERNAL, keeps_source, "{opened:?}");
        let source = (opened.src, opened.sport());
        let syn_ack = Packet::tcp(BACKEND, source, SYN_ACK, b"");
        datapath.from_pod(SERVER_IFINDEX, &syn_ack).to_uplink(&[Outcome::Restored]);
        let forward = || datapath.from_netdev(&ack(client, frontend));
        let reply = || datapath.from_pod(SERVER_IFINDEX, &ack(BACKEND, source));
        forward().to_pod(outcomes);
        datapath.isolate(SERVER, Ingress, &[(OUTSIDE, backend_port())], NONE);
        forward().to_pod(outcomes);
        datapath.rejudge(SERVER);
        reply().to_uplink(&[Outcome::Restored]);
        // Neither the node, whose address the backend may see, nor the NodePort counts.
        let frontend_port = PolicyPorts::range(proto::TCP, 30_080, 30_080);
        for denied in [(OF_NODE, PolicyPorts::ALL), (OUTSIDE, frontend_port)] {
            datapath.isolate(SERVER, Ingress, &[denied], NONE);
            forward().dropped(DropReason::PolicyIngress);
            reply().dropped(DropReason::PolicyIngress);
        }
    }
}

#[test]
fn an_error_of_a_services_client_is_judged_as_its_flow() {
    let datapath = node();
    connect(&datapath, &[BACKEND]);
    // About a reply of the backend, as the client has received it: its tuple is that of the alias.
    let related = error(CLIENT, VIP, 4, &ack(SERVICE, CLIENT_END));
    let send = || datapath.from_pod(CLIENT_IFINDEX, &related);
    datapath.isolate(SERVER, Ingress, &[(WEB, backend_port())], NONE);
    let delivered = send().to_pod(&[Outcome::Restored]);
    assert_eq!((delivered.src, delivered.dst), (CLIENT, SERVER));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    // The quoted packet is translated back before the verdict.
    let run = send();
    run.counted(&[DropReason::PolicyIngress.label(), Outcome::Restored.label()]);
    assert_eq!(run.action, Action::Drop);
}

#[test]
fn a_flow_without_its_main_entry_is_judged_and_keeps_its_backend() {
    let datapath = node();
    let backends: Vec<Endpoint> = (8080..8096).map(|port| (SERVER, port)).collect();
    let port = connect(&datapath, &backends);
    let forward = || datapath.from_pod(CLIENT_IFINDEX, &ack(CLIENT_END, SERVICE));
    datapath.isolate(SERVER, Ingress, &[], NONE);
    forward().dropped(DropReason::PolicyIngress);
    let main = tuple(proto::TCP, CLIENT_END, (SERVER, port)).sorted();
    assert!(datapath.remove_entry(&main));
    for _ in 0..2 {
        forward().dropped(DropReason::PolicyIngress);
    }
    assert!(datapath.flows().is_empty(), "a denied packet writes no entry");
    let admitted = PolicyPorts::range(proto::TCP, 8080, 8095);
    datapath.isolate(SERVER, Ingress, &[(WEB, admitted)], NONE);
    let delivered = forward().to_pod(&[Outcome::Translated]);
    assert_eq!((delivered.src, delivered.sport()), CLIENT_END);
    assert_eq!((delivered.dst, delivered.dport()), (SERVER, port));
    let judged: Vec<_> = datapath.flows().iter().map(|flow| flow.judged).collect();
    assert_eq!(judged, [datapath.policy_epoch()], "with the packet that writes the entry");
    let reply = ack((SERVER, port), CLIENT_END);
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[Outcome::Restored]);
}

#[test]
fn a_masqueraded_flow_without_its_main_entry_is_judged_and_keeps_its_port() {
    let datapath = node();
    let dns = (EXTERNAL, 53);
    let packet = Packet::udp(CLIENT_END, dns, b"x");
    let send = || datapath.from_pod(CLIENT_IFINDEX, &packet);
    let port = send().to_uplink(&[Outcome::Masqueraded]).sport();
    datapath.isolate(CLIENT, Egress, &[], NONE);
    send().dropped(DropReason::PolicyEgress);
    let main = tuple(proto::UDP, (NODE, port), dns).sorted();
    assert!(datapath.remove_entry(&main));
    for _ in 0..2 {
        send().dropped(DropReason::PolicyEgress);
    }
    assert!(datapath.flows().is_empty(), "a denied packet writes no entry");
    let admitted = PolicyPorts::range(proto::UDP, 53, 53);
    datapath.isolate(CLIENT, Egress, &[(OUTSIDE, admitted)], NONE);
    assert_eq!(send().to_uplink(&[Outcome::Masqueraded]).sport(), port);
}

/// The client's address is judged, from outside and from a pod of the node.
#[test]
fn a_host_port_is_judged_as_its_pod() {
    let datapath = Datapath::node();
    datapath.host_port((NODE, 9080, proto::TCP), (SERVER, 80));
    datapath.network_class(EXTERNAL, 32, 5);
    datapath.class(CLIENT, Some(6));
    let outside = |port| syn((EXTERNAL, port), (NODE, 9080));
    let pod = |port| syn((CLIENT, port), (NODE, 9080));
    datapath.isolate(SERVER, Ingress, &[(5, web_port())], NONE);
    let delivered = datapath.from_netdev(&outside(1)).to_pod(&[Outcome::Translated]);
    assert_eq!((delivered.src, delivered.dst, delivered.dport()), (EXTERNAL, SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &pod(1)).dropped(DropReason::PolicyIngress);
    datapath.isolate(SERVER, Ingress, &[(6, web_port())], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &pod(2)).to_pod(&[Outcome::Translated]);
    datapath.from_netdev(&outside(2)).dropped(DropReason::PolicyIngress);
    // The open flow of the rule that has gone.
    datapath.from_netdev(&ack((EXTERNAL, 1), (NODE, 9080))).dropped(DropReason::PolicyIngress);
}
