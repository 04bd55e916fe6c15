//! Tells when the node's network changed, from netlink's multicast groups.
//!
//! Goes quiet for a moment after each change, so that a burst (a device going down takes all its
//! routes along) becomes one event. Messages can be lost when the kernel's buffer overflows: the
//! event loop also looks by the clock.

use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::{HostError, concerns_the_node};

/// How long further messages are taken together with the first.
const QUIET: Duration = Duration::from_millis(50);

/// Calls `changed` after each change, until it returns false.
///
/// # Errors
/// If no netlink socket can be had.
pub fn spawn<E: Send + 'static>(
    events: mpsc::Sender<E>,
    changed: impl Fn() -> E + Send + 'static,
) -> Result<(), HostError> {
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(HostError::Socket)?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            if !concerns_the_node(&message) {
                continue;
            }
            tokio::time::sleep(QUIET).await;
            while let Ok(_more) = messages.try_recv() {}
            if events.send(changed()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
