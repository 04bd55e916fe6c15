//! What was found in the maps.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Backend, Frontend, FrontendKey, Network, NetworkKey};

use super::run_of;
use crate::slots::Run;

/// Contents of the maps. Read the three maps first, then the runs that [`ReadBack::runs`] names:
/// the array of slots is large and mostly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// `FRONTENDS`.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// `BACKENDS`.
    pub backends: Vec<(u32, Backend)>,
    /// `NETWORKS`.
    pub networks: Vec<(NetworkKey, Network)>,
    /// Runs of `SLOTS`.
    pub slots: BTreeMap<Run, Vec<u32>>,
}

impl ReadBack {
    /// The runs that the frontends refer to, as far as they lie in an array of this capacity.
    pub fn runs(&self, capacity: u32) -> BTreeSet<Run> {
        let inside = |run: &Run| run.offset.checked_add(run.len).is_some_and(|e| e <= capacity);
        let runs = self.frontends.iter().map(|(_, f)| run_of(f));
        runs.filter(|run| run.len > 0 && inside(run)).collect()
    }
}
