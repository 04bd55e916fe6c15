//! Packed rows: what a batch system call reads and writes.

use std::iter;

use zerocopy::{FromBytes, IntoBytes};

use super::{Table, TableSpec};

/// Rows of one map as the kernel returned them, keys and values packed back to back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The map that they were read from.
    pub table: &'static TableSpec,
    /// Keys.
    pub keys: Vec<u8>,
    /// The value of each key, in the same order.
    pub values: Vec<u8>,
}

impl Rows {
    /// Packs rows, in their order.
    pub fn of<T: Table>(rows: impl IntoIterator<Item = (T::Key, T::Value)>) -> Rows {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in rows {
            keys.extend_from_slice(key.as_bytes());
            values.extend_from_slice(value.as_bytes());
        }
        Rows { table: T::SPEC, keys, values }
    }

    /// Number of rows. An incomplete row at the end does not count.
    pub fn len(&self) -> usize {
        let keys = self.keys.len() / self.table.key_size;
        keys.min(self.values.len() / self.table.value_size)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows with the types of `T`, in their order. Rows of another map yield nothing.
    pub fn typed<T: Table>(&self) -> impl Iterator<Item = (T::Key, T::Value)> + '_ {
        debug_assert_eq!(self.table, T::SPEC);
        let len = if self.table == T::SPEC { self.len() } else { 0 };
        let keys = self.keys.chunks_exact(size_of::<T::Key>());
        let values = self.values.chunks_exact(size_of::<T::Value>());
        keys.zip(values).take(len).filter_map(|(key, value)| {
            Some((T::Key::read_from_bytes(key).ok()?, T::Value::read_from_bytes(value).ok()?))
        })
    }
}

/// One batch of one map: exactly the buffers that `BPF_MAP_UPDATE_BATCH` and
/// `BPF_MAP_DELETE_BATCH` take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Adds rows or replaces their values.
    Put {
        /// The map.
        table: &'static TableSpec,
        /// Packed keys.
        keys: Vec<u8>,
        /// Packed values, in the order of the keys.
        values: Vec<u8>,
        /// Whether the rows lose something that rows of a later map referred to before this plan:
        /// they are written in the place of deletions.
        late: bool,
    },
    /// Deletes rows.
    Delete {
        /// The map.
        table: &'static TableSpec,
        /// Packed keys.
        keys: Vec<u8>,
    },
}

impl Write {
    /// A batch that adds or replaces these rows; `None` if there are none.
    pub fn put<T: Table>(rows: impl IntoIterator<Item = (T::Key, T::Value)>) -> Option<Write> {
        let Rows { table, keys, values } = Rows::of::<T>(rows);
        (!keys.is_empty()).then_some(Write::Put { table, keys, values, late: false })
    }

    /// As [`Write::put`], in the place of deletions.
    pub fn put_late<T: Table>(rows: impl IntoIterator<Item = (T::Key, T::Value)>) -> Option<Write> {
        let Rows { table, keys, values } = Rows::of::<T>(rows);
        (!keys.is_empty()).then_some(Write::Put { table, keys, values, late: true })
    }

    /// A batch that deletes these rows; `None` if there are none.
    pub fn delete<T: Table>(rows: impl IntoIterator<Item = T::Key>) -> Option<Write> {
        let mut keys = Vec::new();
        rows.into_iter().for_each(|key| keys.extend_from_slice(key.as_bytes()));
        (!keys.is_empty()).then_some(Write::Delete { table: T::SPEC, keys })
    }

    /// The map that is written.
    pub fn table(&self) -> &'static TableSpec {
        match self {
            Write::Put { table, .. } | Write::Delete { table, .. } => table,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.keys().len() / self.table().key_size
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// Packed keys.
    pub fn keys(&self) -> &[u8] {
        match self {
            Write::Put { keys, .. } | Write::Delete { keys, .. } => keys,
        }
    }

    /// Whether the batch deletes rows.
    pub fn is_delete(&self) -> bool {
        matches!(self, Write::Delete { .. })
    }

    /// Each row in order: its key, and its value unless the row is deleted.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let values: &[u8] = if let Write::Put { values, .. } = self { values } else { &[] };
        let values = values.chunks_exact(self.table().value_size).map(Some);
        let values = values.chain(iter::repeat(None));
        self.keys().chunks_exact(self.table().key_size).zip(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Backends, Slots};

    #[test]
    fn rows_keep_their_order_and_values() {
        let rows = [(7, 70), (3, 30)];
        let read = Rows::of::<Slots>(rows);
        assert_eq!(read.len(), 2);
        assert_eq!(read.typed::<Slots>().collect::<Vec<_>>(), rows);
    }

    #[test]
    fn incomplete_row_is_not_read() {
        let mut read = Rows::of::<Slots>([(7, 70), (3, 30)]);
        read.values.pop();
        assert_eq!(read.typed::<Slots>().collect::<Vec<_>>(), [(7, 70)]);
        assert_eq!(read.len(), 1);
    }

    #[test]
    fn batch_yields_its_rows() {
        let put = Write::put::<Slots>([(1, 2), (3, 4)]).unwrap();
        let (one, two, three) = (1u32.to_ne_bytes(), 2u32.to_ne_bytes(), 3u32.to_ne_bytes());
        let rows: Vec<_> = put.rows().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], (&one[..], Some(&two[..])));
        assert_eq!((put.len(), put.is_delete()), (2, false));

        let delete = Write::delete::<Backends>([3, 1]).unwrap();
        let rows: Vec<_> = delete.rows().collect();
        assert_eq!(rows, [(&three[..], None), (&one[..], None)]);
        assert_eq!((delete.len(), delete.is_delete()), (2, true));
        assert_eq!(delete.table().name, "BACKENDS");
    }

    #[test]
    fn empty_batches_do_not_exist() {
        assert_eq!(Write::put::<Slots>([]), None);
        assert_eq!(Write::delete::<Slots>([]), None);
    }
}
