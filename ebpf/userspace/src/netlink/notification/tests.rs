//! Messages as the kernel sends them.
#![allow(clippy::unwrap_used, reason = "tests")]

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::tc::TcMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::*;

fn datagram(messages: Vec<RouteNetlinkMessage>) -> Vec<u8> {
    let mut all = Vec::new();
    for message in messages {
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        all.extend(bytes);
    }
    all
}

fn link(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::IfName(name.to_owned())];
    message
}

#[test]
fn each_kind_names_its_object() {
    let mut address = AddressMessage::default();
    address.header.index = 4;
    address.attributes = vec![
        AddressAttribute::Address("10.0.0.2".parse().unwrap()),
        AddressAttribute::Local("10.0.0.1".parse().unwrap()),
    ];
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.protocol = RouteProtocol::from(83);
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet([10, 244, 1, 7].into())),
        RouteAttribute::Oif(9),
    ];
    let mut via = route.clone();
    via.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([172, 18, 0, 3].into())));
    let mut entry = NeighbourMessage::default();
    entry.header.ifindex = 9;
    entry.header.state = NeighbourState::Permanent;
    let mut stale = entry.clone();
    stale.header.state = NeighbourState::Stale;
    let mut tc = TcMessage::default();
    tc.header.index = 9;
    let of_route = |deleted, gateway| Notification::Route {
        deleted,
        protocol: 83,
        dst: Some("10.244.1.7".parse().unwrap()),
        prefix: 32,
        device: Some(9),
        gateway,
    };
    let permanent = Notification::Neighbour { index: 9, dynamic: false };
    use RouteNetlinkMessage as M;
    let cases = [
        (M::NewLink(link(9, "eth0")), Notification::Link { index: 9, name: "eth0".into() }),
        (M::DelLink(link(9, "eth0")), Notification::Link { index: 9, name: "eth0".into() }),
        (
            M::NewAddress(address),
            Notification::Address { index: 4, address: Some("10.0.0.1".parse().unwrap()) },
        ),
        (M::NewRoute(route.clone()), of_route(false, false)),
        (M::DelRoute(route), of_route(true, false)),
        (M::DelRoute(via), of_route(true, true)),
        (M::NewNeighbour(entry.clone()), permanent.clone()),
        (M::DelNeighbour(stale.clone()), permanent),
        (M::NewNeighbour(stale), Notification::Neighbour { index: 9, dynamic: true }),
        (M::DelQueueDiscipline(tc.clone()), Notification::TrafficControl { index: 9 }),
        (M::DelTrafficFilter(tc), Notification::TrafficControl { index: 9 }),
    ];
    for (message, expected) in &cases {
        let found = parse_notifications(&datagram(vec![message.clone()]));
        assert_eq!(found.as_slice(), std::slice::from_ref(expected));
    }
    let (all, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(parse_notifications(&datagram(all)), expected);
}

#[test]
fn netconf_names_a_device_or_none() {
    let message = |index: i32| {
        let mut bytes = vec![28u8, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        bytes.extend([8, 0, 1, 0]);
        bytes.extend(index.to_ne_bytes());
        parse_notifications(&bytes)
    };
    assert_eq!(message(9), [Notification::Netconf { index: Some(9) }]);
    assert_eq!(message(-1), [Notification::Netconf { index: None }]);
    assert_eq!(message(-2), [Notification::Netconf { index: None }]);
}

#[test]
fn truncated_messages_are_skipped() {
    let whole = datagram(vec![RouteNetlinkMessage::NewLink(link(9, "eth0"))]);
    for length in 0..whole.len() {
        assert_eq!(parse_notifications(&whole[..length]), [], "{length} bytes");
    }
    // A length of zero must not repeat the message for ever.
    assert_eq!(parse_notifications(&[0; 64]), []);
}

/// The loopback device is not changed: the test only subscribes.
#[test]
fn a_socket_without_notifications_does_not_block() {
    let error = loop {
        match Notifications::open().unwrap().receive() {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}
