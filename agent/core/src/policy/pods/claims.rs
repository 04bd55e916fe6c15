//! Which pods have an address.

use std::collections::BTreeMap;

use sluice_abi::Addr;

/// Pods by address. Nearly every address has one.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    first: BTreeMap<Addr, u32>,
    others: BTreeMap<Addr, Vec<u32>>,
}

impl Claims {
    /// A pod has an address.
    pub fn insert(&mut self, address: Addr, pod: u32) {
        let first = *self.first.entry(address).or_insert(pod);
        if first != pod {
            let others = self.others.entry(address).or_default();
            if !others.contains(&pod) {
                others.push(pod);
            }
        }
    }

    /// A pod does not have an address any more.
    pub fn remove(&mut self, address: Addr, pod: u32) {
        let mut others = self.others.remove(&address).unwrap_or_default();
        if self.first.get(&address) == Some(&pod) {
            match others.pop() {
                Some(other) => self.first.insert(address, other),
                None => self.first.remove(&address),
            };
        }
        others.retain(|other| *other != pod);
        if !others.is_empty() {
            self.others.insert(address, others);
        }
    }

    /// The pods with an address.
    pub fn of(&self, address: Addr) -> impl Iterator<Item = u32> {
        let others = self.others.get(&address).into_iter().flatten();
        self.first.get(&address).into_iter().chain(others).copied()
    }

    /// The addresses in a range that pods have.
    pub fn range(&self, first: Addr, last: Addr) -> impl Iterator<Item = Addr> {
        self.first.range(first..=last).map(|(address, _)| *address)
    }

    /// The addresses that pods have.
    pub fn all(&self) -> impl Iterator<Item = Addr> {
        self.first.keys().copied()
    }

    /// Number of addresses.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.first.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_has_its_pods_in_any_order() {
        let mut claims = Claims::default();
        let address = Addr::v4([10, 0, 0, 1]);
        for pod in [1, 2, 2, 3, 1] {
            claims.insert(address, pod);
        }
        assert_eq!(claims.of(address).collect::<Vec<_>>(), [1, 2, 3]);
        claims.remove(address, 1);
        assert_eq!(claims.of(address).collect::<Vec<_>>(), [3, 2]);
        for pod in [9, 2, 3] {
            claims.remove(address, pod);
        }
        assert_eq!((claims.of(address).count(), claims.len()), (0, 0));
    }
}
