//! Pods that run follow the MTU of the uplink.
//!
//! A new MTU reaches new pods by the CNI configuration; those that run would go on sending packets
//! that no longer fit. Only pods that have the old MTU are changed: another one was somebody's
//! choice (a `tuning` plugin behind ours).

use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::device;
use sluice_pod::lease::{Lease, Store};
use sluice_pod::netns::{NetNs, NetNsError};

use crate::endpoints::namespace_path;

/// Why a pod keeps its MTU.
#[derive(Debug, thiserror::Error)]
enum MtuError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    NetNs(#[from] NetNsError),
}

/// Changes both ends of the veth pairs of all pods with MTU `old` to `new`; tells how many pods
/// there were.
///
/// # Errors
/// When leases or devices cannot be read at all; a single pod that fails is logged.
pub fn change(state_dir: &Path, old: u32, new: u32) -> anyhow::Result<usize> {
    let mut netlink = Netlink::open()?;
    let mut changed = 0;
    for lease in Store::new(state_dir).read()?.leases {
        match change_pod(&mut netlink, &lease, old, new) {
            Ok(did) => changed += usize::from(did),
            Err(e) => {
                tracing::warn!(pod = %lease.owner(), error = %e, "pod keeps its MTU of {old}");
            }
        }
    }
    Ok(changed)
}

fn change_pod(netlink: &mut Netlink, lease: &Lease, old: u32, new: u32) -> Result<bool, MtuError> {
    let host_end = device::link_by_name(netlink, &lease.host_ifname)?;
    let (Some(_), Some(namespace)) = (host_end.filter(|l| l.mtu == old), namespace_path(lease))
    else {
        return Ok(false);
    };
    let mut inside = NetNs::open(&namespace)?.netlink()?;
    set(&mut inside, &lease.key.ifname, new)?;
    set(netlink, &lease.host_ifname, new)?;
    Ok(true)
}

fn set(netlink: &mut Netlink, device: &str, mtu: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(device.to_owned()), LinkAttribute::Mtu(mtu)];
    let doing = format!("set the MTU of {device} to {mtu}");
    netlink.change(RouteNetlinkMessage::SetLink(message), 0, &doing)
}
