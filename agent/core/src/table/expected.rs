//! Comparison of rows that were read with those that a map should have.

use std::collections::BTreeMap;

use super::{Rows, Table, TableSpec};

/// The rows that a map should have. Maps are compared alike, whatever their rows are kept in.
pub struct Expected<'a> {
    /// The map.
    pub table: &'static TableSpec,
    /// Number of its rows.
    pub count: usize,
    has: Box<dyn Fn(&Rows) -> bool + 'a>,
}

impl<'a> Expected<'a> {
    /// `count` rows of `T`; `has` returns whether a row is one of them.
    pub fn of<T: Table>(count: usize, has: impl Fn(&T::Key, &T::Value) -> bool + 'a) -> Self {
        let has = move |rows: &Rows| rows.typed::<T>().all(|(key, value)| has(&key, &value));
        Expected { table: T::SPEC, count, has: Box::new(has) }
    }

    /// These rows of `T`.
    pub fn rows<T: Table>(rows: &'a BTreeMap<T::Key, T::Value>) -> Self {
        Expected::of::<T>(rows.len(), |key, value| rows.get(key) == Some(value))
    }

    /// Whether all rows that were read from the map are among the expected ones.
    pub fn has(&self, rows: &Rows) -> bool {
        (self.has)(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Slots;

    #[test]
    fn rows_with_another_value_or_key_are_not_expected() {
        let rows = BTreeMap::from([(1, 10), (2, 20)]);
        let expected = Expected::rows::<Slots>(&rows);
        assert_eq!((expected.table, expected.count), (Slots::SPEC, 2));
        for (read, is_expected) in [
            (vec![], true),
            (vec![(2, 20)], true),
            (vec![(1, 10), (2, 20)], true),
            (vec![(1, 10), (2, 21)], false),
            (vec![(3, 10)], false),
        ] {
            assert_eq!(expected.has(&Rows::of::<Slots>(read.clone())), is_expected, "{read:?}");
        }
    }
}
