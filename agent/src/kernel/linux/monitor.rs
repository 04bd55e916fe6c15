//! Notifications about the node's network -> events.
//!
//! A burst (a device that goes down, and its routes) becomes one event of each kind. When
//! notifications are lost because the socket's buffer overflowed, everything is read again.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use sluice_bpf::netlink::{NetlinkError, Notification, Notifications};
use sluice_pod::ROUTE_PROTOCOL;
use sluice_pod::identity::HOST_PREFIX;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::network::is_of_one_link;
use crate::event::{Event, PodScope};

/// How long further notifications are merged with the first.
const BURST: Duration = Duration::from_millis(50);

/// What a burst of notifications concerns.
#[derive(Debug, Default, PartialEq, Eq)]
struct Burst {
    node: bool,
    forwarding: bool,
    pods: PodScope,
}

/// Sends events after changes, until the receiver is closed. Must be called inside a tokio runtime.
///
/// # Errors
/// The netlink socket cannot be opened.
pub fn spawn(events: mpsc::Sender<Event>) -> Result<(), SpawnError> {
    let notifications = Notifications::open()?;
    // SAFETY: `Notifications` owns its file descriptor and always returns the same one.
    let socket =
        unsafe { AsyncFd::register(notifications) }.map_err(|e| SpawnError::Register(e.into()))?;
    tokio::spawn(async move {
        while let Some(burst) = next_burst(&socket).await {
            for event in burst.events() {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// The monitor cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The socket cannot be opened.
    #[error(transparent)]
    Open(#[from] NetlinkError),
    /// The socket cannot be added to the runtime.
    #[error("wait for netlink notifications")]
    Register(#[source] io::Error),
}

/// Waits for a notification that concerns the node, and merges those that follow. `None` if the socket
/// fails: the periodic checks go on.
async fn next_burst(socket: &AsyncFd<Notifications>) -> Option<Burst> {
    let mut burst = Burst::default();
    while burst == Burst::default() {
        let mut ready = socket.readable().await.ok()?;
        if let Err(error) = burst.drain(|| ready.get_inner().receive()) {
            tracing::error!(%error, "netlink notifications failed, falling back to periodic checks");
            return None;
        }
        ready.clear_ready();
    }
    tokio::time::sleep(BURST).await;
    if let Err(error) = burst.drain(|| socket.get_ref().receive()) {
        tracing::warn!(%error, "could not read netlink notifications");
    }
    Some(burst)
}

impl Burst {
    /// Everything, after lost notifications.
    fn all() -> Burst {
        Burst { node: true, forwarding: true, pods: PodScope::all() }
    }

    /// Adds all waiting notifications.
    fn drain(
        &mut self,
        mut receive: impl FnMut() -> io::Result<Vec<Notification>>,
    ) -> io::Result<()> {
        loop {
            match receive() {
                Ok(notifications) => notifications.into_iter().for_each(|n| self.add(n)),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::warn!("netlink notifications were lost, reading everything again");
                    *self = Burst::all();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Adds one notification. Devices and routes of pods change often and do not concern the node.
    fn add(&mut self, notification: Notification) {
        match notification {
            Notification::Link { index, name } if name.starts_with(HOST_PREFIX) => {
                self.pods.pods.insert(index);
            }
            Notification::Link { .. } => self.node = true,
            Notification::Address { address, .. } => {
                self.node |= !address.as_ref().is_some_and(is_of_one_link);
            }
            Notification::Route { deleted, protocol, dst, prefix, device, gateway } => {
                let of_a_pod = protocol == ROUTE_PROTOCOL && !gateway && device.is_some();
                if let Some(address) = host_address(dst, prefix) {
                    self.pods.addresses.insert(address);
                    self.pods.routed.extend(of_a_pod.then_some(address));
                }
                // IPv4 routes select the devices with programs; those of the agent do not.
                let selects = protocol != ROUTE_PROTOCOL && dst.is_some_and(|a| a.is_ipv4());
                self.node |= if deleted { !of_a_pod } else { prefix == 0 || selects };
            }
            // The kernel changes entries that are not permanent by itself.
            Notification::Neighbour { dynamic: true, .. } => {}
            Notification::Neighbour { index, .. } | Notification::TrafficControl { index } => {
                self.pods.devices.insert(index);
            }
            Notification::Netconf { index: None } => self.forwarding = true,
            Notification::Netconf { index: Some(index) } => {
                self.pods.devices.insert(index);
            }
        }
    }

    fn events(self) -> impl Iterator<Item = Event> {
        let pods = (!self.pods.is_empty()).then_some(Event::PodNetwork(self.pods));
        [
            self.node.then_some(Event::HostNetwork),
            self.forwarding.then_some(Event::Forwarding),
            pods,
        ]
        .into_iter()
        .flatten()
    }
}

/// The destination of a route to a single IPv4 address.
fn host_address(dst: Option<IpAddr>, prefix: u8) -> Option<Ipv4Addr> {
    match dst? {
        IpAddr::V4(address) if prefix == 32 => Some(address),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn burst(notifications: Vec<Notification>) -> Burst {
        let mut burst = Burst::default();
        notifications.into_iter().for_each(|n| burst.add(n));
        burst
    }

    fn link(name: &str) -> Notification {
        Notification::Link { index: 7, name: name.to_owned() }
    }

    fn route(deleted: bool, dst: &str, prefix: u8, gateway: bool) -> Notification {
        let (dst, device) = (dst.parse().ok(), Some(7));
        Notification::Route { deleted, protocol: ROUTE_PROTOCOL, dst, prefix, device, gateway }
    }

    #[test]
    fn changes_of_pods_concern_the_pods_alone() {
        let of_pods = |n| {
            let burst = burst(vec![n]);
            assert!(!burst.node && !burst.forwarding, "{burst:?}");
            burst.pods
        };
        assert_eq!(of_pods(link("slc0123456789a")).pods, [7].into());
        let address: BTreeSet<Ipv4Addr> = [[10, 244, 1, 7].into()].into();
        let deleted = of_pods(route(true, "10.244.1.7", 32, false));
        assert_eq!((deleted.addresses, deleted.routed), (address.clone(), address.clone()));
        assert_eq!(of_pods(route(false, "10.244.1.7", 32, false)).addresses, address);
        assert_eq!(of_pods(Notification::TrafficControl { index: 7 }).devices, [7].into());
        assert_eq!(of_pods(Notification::Netconf { index: Some(7) }).devices, [7].into());
        let permanent = Notification::Neighbour { index: 7, dynamic: false };
        assert_eq!(of_pods(permanent).devices, [7].into());
    }

    #[test]
    fn changes_of_the_node_are_not_those_of_its_neighbours_and_links() {
        let node = |n| burst(vec![n]).node;
        assert!(node(link("eth0")));
        assert!(node(route(true, "10.244.2.0", 24, true)));
        assert!(node(Notification::Route {
            deleted: false,
            protocol: 3,
            dst: None,
            prefix: 0,
            device: Some(2),
            gateway: true,
        }));
        assert!(!node(route(false, "10.244.2.0", 24, true)), "of the agent");
        let of_others = |dst: &str| Notification::Route {
            deleted: false,
            protocol: 3,
            dst: dst.parse().ok(),
            prefix: if dst.contains(':') { 64 } else { 24 },
            device: Some(3),
            gateway: false,
        };
        assert!(node(of_others("198.18.0.0")) && !node(of_others("fe80::")));
        let address = |text: &str| Notification::Address { index: 2, address: text.parse().ok() };
        assert!(node(address("172.18.0.2")) && !node(address("fe80::1")));
        assert_eq!(
            burst(vec![Notification::Neighbour { index: 2, dynamic: true }]),
            Burst::default()
        );
        let forwarding = burst(vec![Notification::Netconf { index: None }]);
        assert!(forwarding.forwarding && !forwarding.node);
    }

    #[test]
    fn lost_notifications_lead_to_a_fresh_read_of_everything() {
        let mut results = vec![
            Err(io::Error::from(io::ErrorKind::WouldBlock)),
            Ok(vec![link("slc0123456789a")]),
            Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            Ok(vec![link("slc0123456789b")]),
        ];
        let mut burst = Burst::default();
        burst.drain(|| results.pop().unwrap()).unwrap();
        assert!(burst.node && burst.forwarding && burst.pods.all);
        assert_eq!(burst.events().count(), 3);
        let failed = || Err(io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(Burst::default().drain(failed).is_err());
    }
}
