//! STATUS: whether the dataplane can take pods. Reads the pins, so that a restart of the agent does not
//! make the node unready.
//!
//! A full range is not part of it: container runtimes take a failing STATUS for a node that is not Ready,
//! and the scheduler evicts pods of such a node. ADD fails then, and the agent reports it.

use sluice_pod::Dataplane;

use super::dataplane_missing;
use crate::spec::{CniError, NetConf, code};

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::NOT_AVAILABLE, &e))?;
    Ok(())
}
