//! A row of `SERVICES` in the kernel.

use sluice_abi::{ServicePort, SlotRange};

/// Slots and the backend ids in them.
#[derive(Clone, Debug, Default)]
pub(super) struct RealizedSet {
    pub range: SlotRange,
    /// Contents of the slots.
    pub ids: Box<[u32]>,
    /// The slots are invalid or belong to another set: they are neither kept nor freed.
    pub broken: bool,
}

/// A Service port in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct RealizedPort {
    pub cluster: RealizedSet,
    /// `None`: the range is zero.
    pub local: Option<Box<RealizedSet>>,
    /// Ids of unselected backends that existing flows keep.
    pub unselected: Box<[u32]>,
    pub affinity_seconds: u32,
    /// Number of frontends in the kernel that refer to it.
    pub frontends: u32,
}

impl RealizedPort {
    /// The row.
    pub fn value(&self) -> ServicePort {
        ServicePort {
            cluster: self.cluster.range,
            local: self.local.as_ref().map_or_else(SlotRange::default, |set| set.range),
            affinity_seconds: self.affinity_seconds,
        }
    }

    /// Both sets.
    pub fn sets(&self) -> impl Iterator<Item = &RealizedSet> {
        std::iter::once(&self.cluster).chain(self.local.as_deref())
    }

    /// All backend ids that it holds.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.sets().flat_map(|set| set.ids.iter()).chain(&self.unselected).copied()
    }
}
