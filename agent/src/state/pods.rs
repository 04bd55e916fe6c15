//! Which pods are compared with the desired state, and when.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::event::PodScope;

/// The pods to be compared, and what is known to select them.
#[derive(Debug)]
pub struct PodSelection {
    scope: PodScope,
    devices: BTreeSet<u32>,
    addresses: BTreeSet<Ipv4Addr>,
    /// Whether pods have to be compared at each [`crate::event::Event::Poll`].
    pub poll: bool,
}

impl Default for PodSelection {
    /// At start: all pods.
    fn default() -> PodSelection {
        PodSelection {
            scope: PodScope::all(),
            devices: BTreeSet::new(),
            addresses: BTreeSet::new(),
            poll: false,
        }
    }
}

impl PodSelection {
    /// Adds pods. Returns false if none is known: devices and addresses of the node are in scopes,
    /// too.
    pub fn add(&mut self, scope: PodScope) -> bool {
        let known = !scope.devices.is_disjoint(&self.devices)
            || !scope.addresses.is_disjoint(&self.addresses);
        let concerned = scope.all || known || !scope.pods.is_empty();
        if concerned {
            self.scope.merge(scope);
        }
        concerned
    }

    /// The pods to be compared since the last call.
    pub fn take(&mut self) -> PodScope {
        std::mem::take(&mut self.scope)
    }

    /// Replaces the devices and addresses of the pods that are known.
    pub fn set_known(&mut self, devices: BTreeSet<u32>, addresses: BTreeSet<Ipv4Addr>) {
        (self.devices, self.addresses) = (devices, addresses);
    }
}
