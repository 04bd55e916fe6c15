//! Addresses whose class may be another one.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::Addr;

use crate::model::ObjectName;

/// Addresses whose class may be another one.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    /// The addresses.
    pub addresses: BTreeSet<Addr>,
    /// Those that a pod had before and may not have now; `None`: several pods had it.
    former: BTreeMap<Addr, Option<ObjectName>>,
}

impl Dirty {
    /// A pod loses an address, or keeps it with other properties.
    pub fn lost(&mut self, address: Addr, pod: &ObjectName) {
        self.addresses.insert(address);
        merge(&mut self.former, address, Some(pod.clone()));
    }

    /// The one pod that had an address.
    pub fn former(&self, address: Addr) -> Option<ObjectName> {
        self.former.get(&address).cloned().flatten()
    }
}

/// Adds the pod with an address to what is known for a key: `None` if it is not the only one.
pub fn merge<K: Ord>(pods: &mut BTreeMap<K, Option<ObjectName>>, key: K, pod: Option<ObjectName>) {
    let known = pods.entry(key).or_insert_with(|| pod.clone());
    if *known != pod {
        *known = None;
    }
}
