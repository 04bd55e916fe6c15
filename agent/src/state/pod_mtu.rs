//! Former MTUs of the uplink, which pods may still have.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::State;
use crate::conditions::Concern;

/// Longest time in which an ADD gives its pod the MTU of the CNI configuration that it began with.
const ADD: Duration = Duration::from_secs(60);

/// Former MTUs, and the present one of the CNI configuration.
#[derive(Debug, Default)]
pub(super) struct PodMtus {
    old: BTreeSet<u32>,
    /// The MTU that new pods get, and since when.
    configured: Option<(u32, Instant)>,
}

impl State {
    /// Records that pods with this MTU have to follow the uplink.
    pub fn add_old_mtu(&mut self, mtu: u32) {
        self.pod_mtus.old.insert(mtu);
        self.mark([Concern::PodMtu]);
    }

    /// MTUs of pods that have to follow the uplink.
    pub fn old_mtus(&self) -> &BTreeSet<u32> {
        &self.pod_mtus.old
    }

    /// Records that the CNI configuration gives new pods this MTU.
    pub fn set_configured_mtu(&mut self, mtu: u32) {
        if self.pod_mtus.configured.is_none_or(|(configured, _)| configured != mtu) {
            self.pod_mtus.configured = Some((mtu, self.now));
        }
    }

    /// Forgets the former MTUs, after all pods have this one. Not before the CNI configuration has it as
    /// well, and every ADD that began with another one has ended. Returns whether they are forgotten.
    pub fn forget_old_mtus(&mut self, mtu: u32) -> bool {
        let is_settled = |(configured, since)| {
            configured == mtu && self.now.saturating_duration_since(since) >= ADD
        };
        let settled = self.pod_mtus.configured.is_some_and(is_settled);
        if settled {
            self.pod_mtus.old.clear();
        }
        settled
    }
}
