//! STATUS: would ADD work? Answered from the pins and the store alone, without a lock: an agent
//! that restarts, or an ADD at work, must not make the node look unready.

use super::{liveness, now, open_host, store_failed};
use crate::spec::{CniError, NetConf, code};
use sluice_pod::lease::Store;
use sluice_pod::pins::Dataplane;

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    let subnet = conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| {
        let msg = "the dataplane is not loaded on this node; is the sluice agent running?";
        CniError::caused(code::NOT_AVAILABLE, msg, &e)
    })?;
    let state = match Store::new(&conf.state_dir).read() {
        Ok(state) => state,
        // ADD rebuilds a damaged state.
        Err(e) if e.source.kind() == std::io::ErrorKind::InvalidData => return Ok(()),
        Err(e) => return Err(store_failed(e)),
    };
    let leases: Vec<_> =
        state.leases.iter().filter(|lease| subnet.contains(lease.address)).collect();
    if leases.len() < subnet.capacity() {
        return Ok(());
    }
    let (links, now) = (liveness(&mut open_host()?)?, now()?);
    if leases.iter().any(|lease| !links.is_live(lease, &now)) {
        return Ok(());
    }
    let msg = format!("all {} pod addresses of {subnet} are in use", subnet.capacity());
    Err(CniError::new(code::NOT_AVAILABLE, msg))
}
