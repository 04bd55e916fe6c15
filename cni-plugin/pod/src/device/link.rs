//! Network devices, and the veth pairs of pods.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, State,
};
use sluice_bpf::netlink::{Netlink, NetlinkError};

use super::Mac;

/// Longest wait for the activation of a device.
const ACTIVATION: Duration = Duration::from_millis(100);
/// Time between two reads of a device's state.
const POLL: Duration = Duration::from_millis(1);

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, if the device has one of six bytes.
    pub mac: Option<Mac>,
    /// Alias, if one is set.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether the device is administratively up.
    pub up: bool,
    /// What its packets begin with.
    pub layer: LinkLayer,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Index of the device that it is a VLAN of.
    pub vlan_of: Option<u32>,
}

/// What the packets of a device begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// The IP header: TUN, WireGuard, IP tunnels.
    Ip,
    /// Another header.
    Other,
}

impl From<LinkLayerType> for LinkLayer {
    fn from(kind: LinkLayerType) -> LinkLayer {
        match kind {
            LinkLayerType::Ether | LinkLayerType::Loopback => LinkLayer::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Tunnel
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Rawip => LinkLayer::Ip,
            _ => LinkLayer::Other,
        }
    }
}

/// A veth pair to create. Names, MAC addresses and MTU are part of the request, so that other
/// software never sees a pair without them.
#[derive(Clone, Debug)]
pub(crate) struct Veth<'a> {
    /// Name of the host's end.
    pub host_name: &'a str,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Name of the pod's end.
    pub pod_name: &'a str,
    /// Hardware address of the pod's end.
    pub pod_mac: Mac,
    /// The pod's network namespace, in which the kernel creates the pod's end.
    pub pod_netns: BorrowedFd<'a>,
    /// MTU of both ends, bytes.
    pub mtu: u32,
}

fn link_from(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        layer: message.header.link_layer_type.into(),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        master: None,
        veth: false,
        vlan_of: None,
    };
    let (mut vlan, mut lower) = (false, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::LinkInfo(info) => {
                link.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                vlan = info.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            _ => {}
        }
    }
    link.vlan_of = lower.filter(|_| vlan);
    link
}

fn links_in(responses: Vec<RouteNetlinkMessage>) -> Vec<Link> {
    responses
        .into_iter()
        .filter_map(|response| match response {
            RouteNetlinkMessage::NewLink(message) => Some(link_from(message)),
            _ => None,
        })
        .collect()
}

/// Lists the network devices.
///
/// # Errors
/// The devices cannot be listed.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Ok(links_in(netlink.dump(query, "list network devices")?))
}

/// Returns the device with this index, or `None`. One request without a dump, which changes of other
/// devices could interrupt.
///
/// # Errors
/// The device cannot be read.
pub(crate) fn link_by_index(
    netlink: &mut Netlink,
    index: u32,
) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let operation = format!("read network device {index}");
    match netlink.get(RouteNetlinkMessage::GetLink(message), &operation) {
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
        Ok(responses) => Ok(links_in(responses).pop()),
    }
}

/// Waits until a device sends packets. It has a carrier as soon as both ends of its pair are up, but drops what is
/// sent until the kernel's link watch has activated its queue, which happens later and takes long on a busy machine. From
/// Linux 6.8 on, a read of the device runs that work first; before, the operational state shows that it has run. A
/// device that is not activated in time is left as it is.
///
/// # Errors
/// The device does not exist, or its state cannot be read in this time: whether packets would be lost, or whether it
/// exists, is then not known.
pub(crate) fn wait_for_activation(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    wait(Instant::now() + ACTIVATION, || is_operational(netlink, index))
}

/// Repeats `read` until the device is operational or does not exist, at most until the deadline. A failure of the
/// last read is returned: others, such as for lack of memory, can be short.
fn wait(
    deadline: Instant,
    mut read: impl FnMut() -> Result<bool, NetlinkError>,
) -> Result<(), NetlinkError> {
    loop {
        let state = read();
        let is_last = state.as_ref().is_err_and(NetlinkError::is_absent);
        if matches!(state, Ok(true)) || is_last || Instant::now() >= deadline {
            return state.map(drop);
        }
        thread::sleep(POLL);
    }
}

fn is_operational(netlink: &mut Netlink, index: u32) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let operation = format!("read the state of network device {index}");
    let responses = netlink.get(RouteNetlinkMessage::GetLink(message), &operation)?;
    Ok(responses.iter().any(|response| match response {
        RouteNetlinkMessage::NewLink(message) => {
            message.attributes.contains(&LinkAttribute::OperState(State::Up))
        }
        _ => false,
    }))
}

/// Returns the device with this name, or `None`.
///
/// # Errors
/// The device cannot be read.
pub fn link_by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let operation = format!("read network device {name}");
    match netlink.get(RouteNetlinkMessage::GetLink(message), &operation) {
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
        Ok(responses) => Ok(links_in(responses).pop()),
    }
}

/// Creates a veth pair.
///
/// # Errors
/// EEXIST if either name is in use; any other rejection of the kernel.
pub(crate) fn create_veth(netlink: &mut Netlink, veth: &Veth<'_>) -> Result<(), NetlinkError> {
    let end = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
        ]
    };
    let mut peer = LinkMessage::default();
    peer.attributes = end(veth.pod_name, veth.pod_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(veth.pod_netns.as_raw_fd()));
    let mut message = LinkMessage::default();
    message.attributes = end(veth.host_name, veth.host_mac);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let operation = format!("create veth pair {} - {}", veth.host_name, veth.pod_name);
    netlink.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &operation)
}

/// IPv4 settings of a device, by their numbers (`IPV4_DEVCONF_*` in linux/ip.h), as an attribute of
/// [`set_up`]. A write to the sysctl instead repeats itself for as long as another process holds the
/// RTNL lock, and needs a request of its own.
pub(crate) fn ipv4_settings(settings: &[(u16, u32)]) -> LinkAttribute {
    const IFLA_INET_CONF: u16 = 1;
    let value = |(number, value): &(u16, u32)| {
        let mut attribute = [0; 8];
        attribute[..2].copy_from_slice(&8u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&number.to_ne_bytes());
        attribute[4..].copy_from_slice(&value.to_ne_bytes());
        attribute
    };
    let values = settings.iter().flat_map(value).collect();
    let settings = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, values));
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])])
}

/// Sets a device up, with `attributes`.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn set_up(
    netlink: &mut Netlink,
    index: u32,
    attributes: Vec<LinkAttribute>,
) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes;
    let operation = format!("set network device {index} up");
    netlink.change(RouteNetlinkMessage::SetLink(message), 0, &operation)
}

/// Deletes the device with this name; returns whether it existed.
///
/// # Errors
/// The device exists and cannot be deleted.
pub(crate) fn delete_link(netlink: &mut Netlink, name: &str) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let operation = format!("delete network device {name}");
    match netlink.change(RouteNetlinkMessage::DelLink(message), 0, &operation) {
        Err(e) if e.is_absent() => Ok(false),
        Err(e) => Err(e),
        Ok(()) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn failure(errno: i32) -> NetlinkError {
        let source = io::Error::from_raw_os_error(errno).into();
        NetlinkError { operation: "read the state of network device 7".into(), source }
    }

    /// Reads with these results, the last one again and again; returns the number of reads, too.
    fn wait_for(results: &[Result<bool, i32>]) -> (Result<(), i32>, usize) {
        // A late one, unless the last result never ends the wait.
        let ends = !matches!(results.last(), Some(Ok(false) | Err(libc::ENOBUFS)));
        let patience = if ends { Duration::from_secs(60) } else { 10 * POLL };
        let mut reads = 0;
        let result = wait(Instant::now() + patience, || {
            let result = results.get(reads).or(results.last()).copied();
            reads += 1;
            result.unwrap_or(Ok(false)).map_err(failure)
        });
        (result.map_err(|e| e.errno()), reads)
    }

    #[test]
    fn reads_of_a_device_are_repeated_until_it_is_operational_or_does_not_exist() {
        let short = Err(libc::ENOBUFS);
        for (results, expected, reads) in [
            (&[Ok(true)][..], Ok(()), 1),
            (&[Ok(false), Ok(false), Ok(true)], Ok(()), 3),
            (&[short, Ok(false), short, Ok(true)], Ok(()), 4),
            (&[Err(libc::ENODEV)], Err(libc::ENODEV), 1),
            (&[Ok(false), short, Err(libc::ENODEV)], Err(libc::ENODEV), 3),
        ] {
            assert_eq!(wait_for(results), (expected, reads), "{results:?}");
        }
    }

    #[test]
    fn device_whose_state_cannot_be_read_in_time_is_not_taken_for_an_operational_one() {
        let (result, reads) = wait_for(&[Ok(false), Err(libc::ENOBUFS)]);
        assert_eq!(result, Err(libc::ENOBUFS));
        assert!(reads > 2, "{reads}");
        // One that is not operational in time is left as it is, whatever was read before.
        assert_eq!(wait_for(&[Err(libc::ENOBUFS), Ok(false)]).0, Ok(()));
    }
}
