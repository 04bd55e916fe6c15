//! The compiled Service ports. Frontends refer to them by index, so that all frontends of a Service
//! port share one row.

use std::num::NonZeroU32;

use sluice_abi::Family;

use crate::compile::PortRow;

/// Position of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortIndex(NonZeroU32);

/// A Service port.
#[derive(Clone, Debug)]
struct Port {
    row: PortRow,
    /// Number of frontends that are served by it.
    frontends: u32,
}

/// Service ports by index.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    entries: Vec<Option<Box<Port>>>,
    free: Vec<PortIndex>,
    served: Served,
}

/// Counts of the Service ports that frontends are served by.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    ports: usize,
    backends: usize,
    without_local: WithoutLocal,
}

impl Served {
    fn add(&mut self, row: &PortRow) {
        self.ports += 1;
        self.backends += row.backend_count();
        self.without_local.add(row);
    }

    fn remove(&mut self, row: &PortRow) {
        self.ports -= 1;
        self.backends -= row.backend_count();
        self.without_local.remove(row);
    }
}

/// Number of Service ports without endpoints on this node although a traffic policy is Local, if there
/// are endpoints on other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutLocal {
    /// Internal traffic policy, IPv4 and IPv6.
    pub internal: [usize; 2],
    /// External traffic policy, IPv4 and IPv6.
    pub external: [usize; 2],
}

impl WithoutLocal {
    /// Adds a served Service port.
    pub fn add(&mut self, row: &PortRow) {
        self.change(row, |count| *count += 1);
    }

    fn remove(&mut self, row: &PortRow) {
        self.change(row, |count| *count -= 1);
    }

    fn change(&mut self, row: &PortRow, change: impl Fn(&mut usize)) {
        if row.lacks_local_endpoints() {
            let family = usize::from(row.id.family == Family::V6);
            let policies = row.local_policies;
            if policies.internal {
                change(&mut self.internal[family]);
            }
            if policies.external {
                change(&mut self.external[family]);
            }
        }
    }
}

impl Ports {
    fn entry(&self, index: PortIndex) -> Option<&Port> {
        self.entries.get(index.0.get() as usize - 1)?.as_deref()
    }

    fn entry_mut(&mut self, index: PortIndex) -> Option<&mut Port> {
        self.entries.get_mut(index.0.get() as usize - 1)?.as_deref_mut()
    }

    /// The row of a Service port.
    pub fn row(&self, index: PortIndex) -> Option<&PortRow> {
        self.entry(index).map(|port| &port.row)
    }

    /// The row of a Service port, if a frontend is served by it.
    pub fn served_row(&self, index: PortIndex) -> Option<&PortRow> {
        self.entry(index).filter(|port| port.frontends > 0).map(|port| &port.row)
    }

    /// Number of Service ports that frontends are served by.
    pub fn served_count(&self) -> usize {
        self.served.ports
    }

    /// Number of backends in the sets of these Service ports.
    pub fn backend_count(&self) -> usize {
        self.served.backends
    }

    /// Adds a Service port.
    pub fn insert(&mut self, row: PortRow) -> PortIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            let len = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
            PortIndex(NonZeroU32::new(len).unwrap_or(NonZeroU32::MAX))
        });
        if let Some(entry) = self.entries.get_mut(index.0.get() as usize - 1) {
            *entry = Some(Box::new(Port { row, frontends: 0 }));
        }
        index
    }

    /// Replaces the row of a Service port. Returns whether it differs and is served.
    pub fn replace(&mut self, index: PortIndex, row: PortRow) -> bool {
        let Some(port) = self.entries.get_mut(index.0.get() as usize - 1) else { return false };
        let Some(port) = port.as_deref_mut().filter(|port| port.row != row) else { return false };
        let former = std::mem::replace(&mut port.row, row);
        let is_served = port.frontends > 0;
        if is_served {
            self.served.remove(&former);
            self.served.add(&port.row);
        }
        is_served
    }

    /// Removes a Service port without frontends.
    pub fn remove(&mut self, index: PortIndex) {
        if let Some(entry) = self.entries.get_mut(index.0.get() as usize - 1)
            && entry.take().is_some()
        {
            self.free.push(index);
        }
    }

    /// Counts a frontend that begins to be served by a Service port. Returns whether it is the first.
    pub fn gain(&mut self, index: PortIndex) -> bool {
        let Some(port) = self.entry_mut(index) else { return false };
        port.frontends += 1;
        let first = port.frontends == 1;
        if first {
            self.count(index, Served::add);
        }
        first
    }

    /// Counts a frontend that is not served by a Service port any more. Returns whether it was the
    /// last.
    pub fn lose(&mut self, index: PortIndex) -> bool {
        let Some(port) = self.entry_mut(index) else { return false };
        let last = port.frontends == 1;
        port.frontends = port.frontends.saturating_sub(1);
        if last {
            self.count(index, Served::remove);
        }
        last
    }

    /// Service ports without endpoints on this node.
    pub fn without_local(&self) -> WithoutLocal {
        self.served.without_local
    }

    fn count(&mut self, index: PortIndex, change: fn(&mut Served, &PortRow)) {
        let mut served = self.served;
        if let Some(port) = self.entry(index) {
            change(&mut served, &port.row);
        }
        self.served = served;
    }
}
