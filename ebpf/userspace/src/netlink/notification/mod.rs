//! Notifications of rtnetlink's multicast groups: what changed, without its details.
//!
//! Only the fields that select an object are read, from the fixed header and a few attributes: a
//! reader of notifications reads the object again. So a message costs little and cannot be decoded
//! wrongly by a library that is older than the kernel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::NetlinkError;

/// Multicast groups (`enum rtnetlink_groups`): LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR,
/// IPV6_ROUTE, IPV4_NETCONF.
const GROUPS: [u32; 8] = [1, 3, 4, 5, 7, 9, 11, 24];

/// Size of the receive buffer, for bursts such as the removal of many devices.
const BUFFER: usize = 1 << 20;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A device was added, changed or deleted.
    Link {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An address was added or deleted.
    Address {
        /// Index of its device.
        index: u32,
        /// The address.
        address: Option<IpAddr>,
    },
    /// A route was added, replaced or deleted.
    Route {
        /// Whether it was deleted.
        deleted: bool,
        /// Its routing protocol number.
        protocol: u8,
        /// Destination address; `None` for a default route.
        dst: Option<IpAddr>,
        /// Length of the destination's prefix.
        prefix: u8,
        /// Index of its device, if it has exactly one.
        device: Option<u32>,
        /// Whether it has a gateway.
        gateway: bool,
    },
    /// A neighbour entry was added, changed or deleted.
    Neighbour {
        /// Index of its device.
        index: u32,
        /// Whether it exists and is not permanent: the kernel changes these by itself.
        dynamic: bool,
    },
    /// A qdisc or filter was added, changed or deleted.
    TrafficControl {
        /// Index of its device.
        index: u32,
    },
    /// A per-device IPv4 setting changed.
    Netconf {
        /// Index of the device; `None` for the settings of all or of new devices.
        index: Option<u32>,
    },
}

/// A socket that receives [`Notification`]s. It does not block.
#[derive(Debug)]
pub struct Notifications {
    socket: Socket,
}

impl AsRawFd for Notifications {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Notifications {
    /// Subscribes to all groups in the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket cannot be opened, bound or subscribed.
    pub fn open() -> Result<Notifications, NetlinkError> {
        let fail = |e: io::Error| NetlinkError::new("subscribe to netlink notifications", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        // The kernel limits the size to net.core.rmem_max; a smaller buffer overruns earlier.
        let _ = socket.set_rx_buf_sz(BUFFER as libc::c_int);
        socket.set_non_blocking(true).map_err(fail)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(fail)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(fail)?;
        }
        Ok(Notifications { socket })
    }

    /// Receives the notifications of one datagram.
    ///
    /// # Errors
    /// `WouldBlock` if none waits; ENOBUFS if notifications were lost: everything has to be read
    /// again; any other error of the socket.
    pub fn receive(&self) -> io::Result<Vec<Notification>> {
        let (datagram, sender) = self.socket.recv_from_full()?;
        // Any process can send to the socket; only the kernel has the number 0.
        Ok(if sender.port_number() == 0 { parse_notifications(&datagram) } else { Vec::new() })
    }
}

/// Parses one datagram. Messages of other kinds, and those that are too short, are skipped.
pub fn parse_notifications(datagram: &[u8]) -> Vec<Notification> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(length) = number(rest, 0).map(|n| n as usize) {
        let Some(message) = rest.get(HEADER..length) else { break };
        let kind = rest.get(4..6).map_or(0, |k| u16::from_ne_bytes([k[0], k[1]]));
        found.extend(parse(kind, message));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Parses the object of one message.
fn parse(kind: u16, object: &[u8]) -> Option<Notification> {
    match kind {
        // RTM_NEWLINK, RTM_DELLINK: struct ifinfomsg, IFLA_IFNAME
        16 | 17 => {
            let name = attributes(object, 16).find(|(kind, _)| *kind == 3)?.1;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            let name = String::from_utf8_lossy(name).into_owned();
            Some(Notification::Link { index: number(object, 4)?, name })
        }
        // RTM_NEWADDR, RTM_DELADDR: struct ifaddrmsg, IFA_LOCAL before IFA_ADDRESS
        20 | 21 => {
            let attribute = |wanted| attributes(object, 8).find(|(kind, _)| *kind == wanted);
            let value = attribute(2).or_else(|| attribute(1)).map(|(_, value)| value);
            Some(Notification::Address {
                index: number(object, 4)?,
                address: value.and_then(address),
            })
        }
        // RTM_NEWROUTE, RTM_DELROUTE: struct rtmsg, RTA_DST, RTA_OIF, RTA_GATEWAY
        24 | 25 => {
            let (mut dst, mut device, mut gateway) = (None, None, false);
            for (kind, value) in attributes(object, 12) {
                match kind {
                    1 => dst = address(value),
                    4 => device = number(value, 0),
                    5 => gateway = true,
                    _ => {}
                }
            }
            let (prefix, protocol) = (*object.get(1)?, *object.get(5)?);
            let deleted = kind == 25;
            Some(Notification::Route { deleted, protocol, dst, prefix, device, gateway })
        }
        // RTM_NEWNEIGH, RTM_DELNEIGH: struct ndmsg; NUD_PERMANENT
        28 | 29 => {
            let state = object.get(8..10).map(|s| u16::from_ne_bytes([s[0], s[1]]))?;
            let dynamic = kind == 28 && state & 0x80 == 0;
            Some(Notification::Neighbour { index: number(object, 4)?, dynamic })
        }
        // RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER: struct tcmsg
        36 | 37 | 44 | 45 => {
            // Nothing is known of the shared block 0xffffffff.
            Some(Notification::TrafficControl { index: number(object, 4)? })
        }
        // RTM_NEWNETCONF: struct netconfmsg, NETCONFA_IFINDEX; -1 and -2: all devices, new devices
        80 => {
            let (_, value) = attributes(object, 4).find(|(kind, _)| *kind == 1)?;
            let index = i32::from_ne_bytes(value.first_chunk().copied()?);
            Some(Notification::Netconf { index: u32::try_from(index).ok() })
        }
        _ => None,
    }
}

/// The attributes after a structure of `fixed` bytes: type without flags, and value.
fn attributes(object: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = object.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let &[a, b, c, d, ..] = rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
