//! STATUS: whether the dataplane is loaded. Reads the pins only, so that a restart of the agent does not
//! make the node not Ready.
//!
//! A full range does not fail STATUS: container runtimes report a node whose STATUS fails as not Ready,
//! and Kubernetes evicts the pods of such a node. ADD fails instead, and the agent reports a condition.

use sluice_pod::Dataplane;

use super::dataplane_missing;
use crate::spec::{CniError, NetConf, code};

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::NOT_AVAILABLE, &e))?;
    Ok(())
}
