//! GC: every attachment of this network that the runtime does not name goes.

use std::collections::BTreeSet;

use super::del::detach;
use super::{load, now, open_host, store_failed};
use crate::spec::{CniError, NetConf, code};
use sluice_pod::lease::{LeaseKey, Store};

pub(super) fn gc(conf: &NetConf) -> Result<(), CniError> {
    // Taking a missing list for an empty one would cut off every pod of the node.
    let Some(valid) = &conf.valid_attachments else {
        let msg = "network configuration field \"cni.dev/valid-attachments\": is missing, GC \
                   needs it";
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    };
    let valid: BTreeSet<LeaseKey> = valid
        .iter()
        .map(|a| LeaseKey { container_id: a.container_id.clone(), ifname: a.ifname.clone() })
        .collect();
    let mut host = open_host()?;
    let store = Store::new(&conf.state_dir);
    let stale: Vec<_> = {
        let locked = store.lock().map_err(store_failed)?;
        let state = load(&locked, &mut host, &conf.name, &now()?)?;
        let others = state.leases.into_iter();
        others.filter(|l| l.network == conf.name && !valid.contains(&l.key)).collect()
    };
    let mut failures = Vec::new();
    for lease in stale {
        if let Err(e) = detach(conf, &mut host, &lease.key) {
            failures.push(e.about(&lease.owner()).msg);
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        all => Err(CniError::new(code::IO, all.join("; "))),
    }
}
