//! Comparison of the rows of a map with the desired rows, for maps whose keys and values do not
//! depend on other maps.

use std::collections::BTreeMap;

use zerocopy::FromZeros;

use super::{Rows, Table, TableKind, Write};

/// Steps that lead from the rows of a map to the desired rows.
#[derive(Clone, Debug)]
pub struct Difference<T: Table> {
    /// Rows to add, and rows whose value differs.
    pub puts: Vec<(T::Key, T::Value)>,
    /// Rows to delete.
    pub deletes: Vec<T::Key>,
    /// Desired rows that do not fit. Deletions come last, so rows that are deleted still count.
    pub over_capacity: Vec<T::Key>,
}

impl<T: Table> Difference<T> {
    /// The batches, additions first.
    pub fn writes(&self) -> impl Iterator<Item = Write> + use<T> {
        let put = Write::put::<T>(self.puts.iter().copied());
        let delete = Write::delete::<T>(self.deletes.iter().copied());
        put.into_iter().chain(delete)
    }

    /// Carries the steps out on `rows`.
    pub fn apply(&self, rows: &mut BTreeMap<T::Key, T::Value>) {
        rows.extend(self.puts.iter().copied());
        for key in &self.deletes {
            rows.remove(key);
        }
    }
}

/// Compares `found` with `wanted` for a map of `capacity` entries. Entries of an array cannot be
/// deleted: one that is not wanted is set to zero.
pub fn difference<T: Table>(
    found: &BTreeMap<T::Key, T::Value>,
    wanted: &BTreeMap<T::Key, T::Value>,
    capacity: u32,
) -> Difference<T> {
    let mut difference =
        Difference { puts: Vec::new(), deletes: Vec::new(), over_capacity: Vec::new() };
    let mut used = found.len();
    for (key, value) in wanted {
        match found.get(key) {
            Some(present) if present == value => {}
            Some(_) => difference.puts.push((*key, *value)),
            None if used >= capacity as usize => difference.over_capacity.push(*key),
            None => {
                used += 1;
                difference.puts.push((*key, *value));
            }
        }
    }
    let zero = T::Value::new_zeroed();
    for (key, value) in found.iter().filter(|(key, _)| !wanted.contains_key(key)) {
        match T::SPEC.kind {
            TableKind::Hash | TableKind::Lpm => difference.deletes.push(*key),
            TableKind::Array if *value == zero => {}
            TableKind::Array => difference.puts.push((*key, zero)),
        }
    }
    difference
}

/// The batches that lead from the rows in the kernel to the desired rows; none if they are equal.
/// Desired rows beyond the capacity of the map are left out.
pub fn diff<T: Table>(
    found: &Rows,
    wanted: impl IntoIterator<Item = (T::Key, T::Value)>,
) -> Vec<Write> {
    let found = found.typed::<T>().collect();
    let wanted = wanted.into_iter().collect();
    difference::<T>(&found, &wanted, T::SPEC.capacity).writes().collect()
}

#[cfg(test)]
mod tests {
    use sluice_abi::{BackendRow, NodeConfig};

    use super::*;
    use crate::table::{Backends, NodeConfigs, Slots};

    fn backend(proto: u8) -> BackendRow {
        BackendRow { proto, ..BackendRow::default() }
    }

    #[test]
    fn only_differing_rows_are_written() {
        let found = BTreeMap::from([(1, backend(1)), (2, backend(2)), (3, backend(3))]);
        let wanted = BTreeMap::from([(2, backend(2)), (3, backend(9)), (4, backend(4))]);
        let difference = difference::<Backends>(&found, &wanted, 10);
        assert_eq!(difference.puts, [(3, backend(9)), (4, backend(4))]);
        assert_eq!(difference.deletes, [1]);
        assert!(difference.over_capacity.is_empty());
        let mut rows = found;
        difference.apply(&mut rows);
        assert_eq!(rows, wanted);
    }

    #[test]
    fn rows_to_be_deleted_count_towards_the_capacity() {
        let found = BTreeMap::from([(1, backend(1)), (2, backend(2))]);
        let wanted = BTreeMap::from([(2, backend(9)), (3, backend(3)), (4, backend(4))]);
        let difference = difference::<Backends>(&found, &wanted, 3);
        assert_eq!(difference.puts, [(2, backend(9)), (3, backend(3))]);
        assert_eq!(difference.deletes, [1]);
        assert_eq!(difference.over_capacity, [4]);
    }

    #[test]
    fn node_config_is_written_only_when_it_differs() {
        let wanted = NodeConfig { mtu: 1500, ..NodeConfig::default() };
        let found = Rows::of::<NodeConfigs>([(0, NodeConfig::default())]);
        let writes = diff::<NodeConfigs>(&found, [(0, wanted)]);
        assert_eq!(writes, [Write::put::<NodeConfigs>([(0, wanted)]).unwrap()]);
        let found = Rows::of::<NodeConfigs>([(0, wanted)]);
        assert!(diff::<NodeConfigs>(&found, [(0, wanted)]).is_empty());
    }

    #[test]
    fn unwanted_array_entry_is_set_to_zero_once() {
        let found = Rows::of::<Slots>([(0, 0), (1, 5), (2, 7)]);
        let writes = diff::<Slots>(&found, [(2, 7)]);
        assert_eq!(writes, [Write::put::<Slots>([(1, 0)]).unwrap()]);
    }

    #[test]
    fn additions_precede_deletions() {
        let found = Rows::of::<Backends>([(1, backend(1))]);
        let writes = diff::<Backends>(&found, [(2, backend(2))]);
        assert_eq!(
            writes,
            [
                Write::put::<Backends>([(2, backend(2))]).unwrap(),
                Write::delete::<Backends>([1]).unwrap(),
            ]
        );
    }
}
