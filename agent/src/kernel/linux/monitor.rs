//! Notifications about the node's network, from netlink's multicast groups.
//!
//! A burst (a device that goes down, and its routes) becomes one event. Notifications are
//! lost when the socket's buffer overflows; the periodic resync of the loop covers them.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::network::affects_node;

/// How long further notifications are merged with the first.
const BURST: Duration = Duration::from_millis(50);

/// Sends `changed()` after each change, until the receiver is closed. Must be called inside a tokio
/// runtime.
///
/// # Errors
/// The netlink socket cannot be opened.
pub fn spawn<E: Send + 'static>(
    events: mpsc::Sender<E>,
    changed: impl Fn() -> E + Send + 'static,
) -> io::Result<()> {
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            if !affects_node(&message) {
                continue;
            }
            tokio::time::sleep(BURST).await;
            while let Ok(_more) = messages.try_recv() {}
            if events.send(changed()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
