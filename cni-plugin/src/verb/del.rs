//! DEL: releases the address, then deletes the veth pair. A missing namespace, lease, device or
//! dataplane is not an error: kubelet could not delete the pod.

use std::io::ErrorKind;

use sluice_bpf::error_chain;
use sluice_bpf::netlink::Netlink;
use sluice_pod::lease::{LeaseKey, Store};
use sluice_pod::{RowKeys, identity, remove_local_pod, remove_veth};

use super::{key, lock, open_host, store_failed, warn};
use crate::spec::{CniError, Environment, NetConf, code};

pub(super) fn del(conf: &NetConf, environment: &Environment) -> Result<(), CniError> {
    let mut host = open_host()?;
    detach(conf, &mut host, &key(environment)).map_err(|e| e.about(&environment.owner()))
}

/// Removes one attachment.
pub(super) fn detach(conf: &NetConf, host: &mut Netlink, key: &LeaseKey) -> Result<(), CniError> {
    // Another call for this attachment ends first: an ADD that goes on would make a pod without lease.
    let store = Store::new(&conf.state_dir);
    let _attachment = match store.lock_attachment(key) {
        Ok(attachment) => Some(attachment),
        Err(e) if e.source.kind() == ErrorKind::TimedOut => return Err(store_failed(e)),
        // Leases that cannot be used at all must not keep a pod from being deleted.
        Err(e) => {
            warn(format_args!("container {}: not locked: {}", key.container_id, error_chain(&e)));
            None
        }
    };
    // A lease that cannot be released now is reclaimed once its network namespace does not exist:
    // continue.
    if let Err(e) = release_address(conf, host, key) {
        warn(format_args!("container {}: address not released: {}", key.container_id, e.msg));
    }
    let device = identity::host_ifname(key);
    remove_veth(host, &device).map_err(|e| {
        CniError::caused(code::IO, format!("network device {device} cannot be deleted"), &e)
    })
}

fn release_address(conf: &NetConf, host: &mut Netlink, key: &LeaseKey) -> Result<(), CniError> {
    let store = Store::new(&conf.state_dir);
    let (locked, now) =
        lock(&store, conf, &format!("DEL of container {}", key.container_id), host)?;
    let Some(entry) = store.find_entry(key).map_err(store_failed)? else { return Ok(()) };
    // Until the lease ends, no other pod can have the address, nor its row.
    let lease = store.lease_of(&entry);
    let keys = lease.as_ref().map_or_else(|| RowKeys::from(&entry), RowKeys::from);
    // An address whose row remains would lead to another pod. Reclaiming the lease removes it.
    remove_local_pod(&conf.pins, keys).map_err(|e| {
        CniError::caused(code::IO, format!("row of {} not deleted", entry.address), &e)
    })?;
    locked.release([&entry], &now).map_err(store_failed)
}
