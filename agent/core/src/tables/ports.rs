//! The compiled Service ports. Frontends refer to them by index, so that all frontends of a Service
//! port share one row.

use std::num::NonZeroU32;

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
    served: usize,
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
        self.served
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
        match self.entry_mut(index) {
            Some(port) if port.row != row => {
                port.row = row;
                port.frontends > 0
            }
            _ => false,
        }
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
        let first = self.entry_mut(index).is_some_and(|port| {
            port.frontends += 1;
            port.frontends == 1
        });
        self.served += usize::from(first);
        first
    }

    /// Counts a frontend that is not served by a Service port any more. Returns whether it was the
    /// last.
    pub fn lose(&mut self, index: PortIndex) -> bool {
        let last = self.entry_mut(index).is_some_and(|port| {
            let was = port.frontends;
            port.frontends = was.saturating_sub(1);
            was == 1
        });
        self.served -= usize::from(last);
        last
    }
}
