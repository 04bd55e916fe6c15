//! STATUS: whether ADD can succeed. Reads the pins and the lease file without a lock, so that a
//! restart of the agent or a running ADD does not make the node unready.

use std::io;

use sluice_pod::Dataplane;
use sluice_pod::lease::Store;

use super::{dataplane_missing, now, open_host, read_links, store_failed};
use crate::spec::{CniError, NetConf, code};

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    let subnet = conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::NOT_AVAILABLE, &e))?;
    let state = match Store::new(&conf.state_dir).read() {
        Ok(state) => state,
        // ADD rebuilds a corrupt file.
        Err(e) if e.source.kind() == io::ErrorKind::InvalidData => return Ok(()),
        Err(e) => return Err(store_failed(e)),
    };
    let leases: Vec<_> =
        state.leases.iter().filter(|lease| subnet.contains(lease.address)).collect();
    if leases.len() < subnet.capacity() {
        return Ok(());
    }
    let (links, now) = (read_links(&mut open_host()?)?, now()?);
    // ADD reclaims leases of pods that no longer exist.
    if leases.iter().any(|lease| !links.is_live(lease, &now)) {
        return Ok(());
    }
    let msg = format!(
        "all {} pod addresses of {subnet} are in use; delete pods or give the node a larger range",
        subnet.capacity()
    );
    Err(CniError::new(code::NOT_AVAILABLE, msg))
}
