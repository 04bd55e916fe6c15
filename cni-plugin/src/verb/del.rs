//! DEL: the address first, then the wire. What is missing already is no error, and neither is a
//! missing namespace, state or dataplane: a pod must be able to go.

use super::{key, load, now, open_host, store_failed, warn};
use crate::spec::{CniError, Environment, NetConf, code};
use sluice_bpf::netlink::Netlink;
use sluice_pod::identity;
use sluice_pod::lease::{LeaseKey, Store};
use sluice_pod::wiring;

pub(super) fn del(conf: &NetConf, environment: &Environment) -> Result<(), CniError> {
    let mut host = open_host()?;
    detach(conf, &mut host, &key(environment)).map_err(|e| e.about(&environment.owner()))
}

/// Undoes one attachment.
pub(super) fn detach(conf: &NetConf, host: &mut Netlink, key: &LeaseKey) -> Result<(), CniError> {
    // A lease that cannot be freed now is reclaimed when its device is gone: go on.
    if let Err(e) = free_address(conf, host, key) {
        eprintln!("sluice-cni: DEL of {}: {}", key.container_id, e.msg);
    }
    let name = identity::host_ifname(key);
    wiring::cut(host, &name)
        .map_err(|e| CniError::caused(code::IO, "the wire could not be removed", &e))
}

fn free_address(conf: &NetConf, host: &mut Netlink, key: &LeaseKey) -> Result<(), CniError> {
    let store = Store::new(&conf.state_dir);
    let locked = store.lock().map_err(store_failed)?;
    let now = now()?;
    let mut state = load(&locked, host, &conf.name, &now)?;
    let Some(lease) = state.release(key, &now) else { return Ok(()) };
    // While the lease stands, the address is nobody else's, and so is its row.
    if let Err(e) = wiring::forget_local_pod(&conf.pins, &lease) {
        warn("DEL", &e);
    }
    locked.save(&state).map_err(store_failed)
}
