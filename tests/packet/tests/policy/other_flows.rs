//! Packets of a pod that are made to affect the flows of others: forged first fragments, and errors about a flow that
//! has lost its port.

use packet_tests::topology::{HOST_MAC, ROUTER_MAC};
use packet_tests::*;
use sluice_abi::PolicyDirection::Ingress;
use sluice_abi::{DropReason, Outcome, PolicyPorts, program, proto};

use super::{NONE, WEB, error};

/// The ports of a datagram's later fragments are those of its first one, so that another pod, or a host on the
/// network of the node, must not be able to set them.
#[test]
fn first_fragments_with_a_forged_source_do_not_change_the_ports_of_the_sender() {
    let datapath = Datapath::node();
    let dns = PolicyPorts::range(proto::UDP, 53, 53);
    for peer in [CLIENT, FAR_POD] {
        datapath.class(peer, Some(WEB));
    }
    datapath.isolate(SERVER, Ingress, &[(WEB, dns)], NONE);
    let datagram = |from, port| Packet::udp((from, PORT), (SERVER, port), &[7; 3000]);
    let send = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, packet);
    send(&datagram(CLIENT, 53).fragment(0, 1480)).to_pod(&[]);
    let forged = datagram(CLIENT, 54).fragment(0, 1480);
    datapath.from_pod(SERVER_IFINDEX, &forged).dropped(DropReason::Spoofed);
    send(&datagram(CLIENT, 53).fragment(1480, 1480)).to_pod(&[]);
    // By a host that is not the next hop to the pod of another node.
    datapath.from_netdev(&datagram(FAR_POD, 53).fragment(0, 1480)).to_pod(&[]);
    let forged = datagram(FAR_POD, 54).fragment(0, 1480).frame(HOST_MAC, ROUTER_MAC);
    datapath.run(program::FROM_NETDEV, &forged, UPLINK_IFINDEX).dropped(DropReason::Spoofed);
    datapath.from_netdev(&datagram(FAR_POD, 53).fragment(1480, 1480)).to_pod(&[]);
}

/// A main entry can be evicted before its alias. The peer takes an error about the port for one of the flow that has it
/// by then.
#[test]
fn errors_about_a_flow_that_has_lost_its_port_do_not_reach_the_peer_of_the_next_flow() {
    let datapath = Datapath::node();
    datapath.snat_ports(2000, 2000);
    let peer = (EXTERNAL, 53);
    let request = |ifindex, pod| {
        let packet = Packet::udp((pod, PORT), peer, b"question");
        datapath.from_pod(ifindex, &packet).to_uplink(&[Outcome::Masqueraded])
    };
    assert_eq!(request(CLIENT_IFINDEX, CLIENT).sport(), 2000);
    let about = Packet::udp(peer, (CLIENT, PORT), b"answer");
    let unreachable = error(CLIENT, EXTERNAL, 3, &about);
    let sent = datapath.from_pod(CLIENT_IFINDEX, &unreachable);
    assert_eq!(sent.to_uplink(&[Outcome::Restored]).src, NODE);
    let main = tuple(proto::UDP, (NODE, 2000), peer).sorted();
    assert!(datapath.remove_entry(&main));
    datapath.from_pod(CLIENT_IFINDEX, &unreachable).dropped(DropReason::NotTracked);
    assert_eq!(request(SERVER_IFINDEX, SERVER).sport(), 2000);
    datapath.from_pod(CLIENT_IFINDEX, &unreachable).dropped(DropReason::NotTracked);
    // The flow that has the port is not affected.
    let answer = Packet::udp(peer, (NODE, 2000), b"answer");
    assert_eq!(datapath.from_netdev(&answer).to_pod(&[Outcome::Restored]).dst, SERVER);
}

/// ESP as an example of a protocol without ports: of such, the node has one flow with an address. A pod that opens it
/// first would receive what the peer of a tunnel of the node sends.
#[test]
fn a_pod_does_not_keep_the_packets_of_a_tunnel_of_the_node() {
    const ESP: u8 = 50;
    let datapath = Datapath::node();
    let packet = |from, to| Packet::new(from, to, ESP, vec![7; 32]);
    let from_pod = || datapath.from_pod(CLIENT_IFINDEX, &packet(CLIENT, EXTERNAL));
    let from_peer = || datapath.from_netdev(&packet(EXTERNAL, NODE));
    let from_node = || datapath.to_netdev(&packet(NODE, EXTERNAL)).passed();
    from_pod().to_uplink(&[Outcome::Masqueraded]);
    assert_eq!(from_peer().to_pod(&[Outcome::Restored]).dst, CLIENT);
    from_node();
    from_peer().to_stack(&[]);
    from_node();
    from_pod().dropped(DropReason::NoSnatPort);
    from_peer().to_stack(&[]);
    // When the tunnel has ended.
    datapath.age_flows(601);
    from_pod().to_uplink(&[Outcome::Masqueraded]);
}
