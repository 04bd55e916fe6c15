//! Typed maps, many entries per call.
//!
//! This file makes the calls; [`resume`] decides what follows each answer of the kernel, without
//! making calls itself.

pub(crate) mod resume;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Map;
use crate::sys::{BatchAttr, BpfError, Cmd, bpf};

use resume::Operation;

/// Entries offered in one call: enough to make the cost of a call negligible, few enough for the
/// kernel to allocate its buffers.
const BATCH: usize = 4096;

impl<K, V> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// Writes `keys[i] -> values[i]`, in order, in as few calls as the kernel allows.
    ///
    /// # Errors
    /// Slices of different lengths or a per-CPU map (`InvalidInput`); the first error of the
    /// kernel. The entries before the failed one are written. A batch that the kernel ends early
    /// for lack of memory is resumed where it ended.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BpfError> {
        if keys.len() != values.len() {
            let e = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(self.fail("write unequal numbers of keys and values to", e));
        }
        self.single_value().map_err(|e| self.fail("write to", e))?;
        resume::change_all(
            Operation::Update,
            keys.len(),
            |range| {
                let end = keys.len().min(range.start + BATCH);
                let values = values[range.start..end].as_ptr() as u64;
                self.change_batch(Cmd::MapUpdateBatch, &keys[range.start..end], values)
            },
            |n| self.put(&keys[n], &values[n]),
        )
        .map_err(|e| self.fail("write a batch to", e))
    }

    /// Deletes `keys` in as few calls as the kernel allows; absent keys are skipped.
    ///
    /// # Errors
    /// The first error of the kernel other than ENOENT. The entries before the failed one are
    /// deleted.
    pub fn delete_batch(&self, keys: &[K]) -> Result<(), BpfError> {
        resume::change_all(
            Operation::Delete,
            keys.len(),
            |range| {
                let end = keys.len().min(range.start + BATCH);
                self.change_batch(Cmd::MapDeleteBatch, &keys[range.start..end], 0)
            },
            |n| self.remove(&keys[n]).map(|_| ()),
        )
        .map_err(|e| self.fail("delete a batch from", e))
    }

    /// One call: how many entries the kernel processed, and how the call ended.
    fn change_batch(&self, cmd: Cmd, keys: &[K], values: u64) -> (usize, io::Result<()>) {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values,
            count: keys.len() as u32,
            map_fd: self.as_fd().as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: `keys`, and `values` where the command reads them, hold `count` entries of the
        // sizes compared in `from_fd`.
        let result = unsafe { bpf(cmd, &mut attr) }.map(|_| ());
        (resume::processed(&result, attr.count as usize, keys.len()), result)
    }

    /// Reads every entry. Concurrent writers can hide entries or make them appear twice.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); any error of the kernel.
    pub fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        self.single_value().map_err(|e| self.fail("read", e))?;
        // Some map types have no batches, and a writer can interrupt an iteration.
        self.entries_batched().or_else(|_| self.entries_one_by_one())
    }

    fn entries_one_by_one(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut all = Vec::new();
        let mut key = self.next_key(None)?;
        // Concurrent deletions can make a hash map start over without end: stop at twice its size.
        for _ in 0..u64::from(self.info().max_entries) * 2 {
            let Some(k) = key else { break };
            key = self.next_key(Some(&k))?;
            if let Some(v) = self.lookup(&k)? {
                all.push((k, v));
            }
        }
        Ok(all)
    }

    fn entries_batched(&self) -> io::Result<Vec<(K, V)>> {
        let size = BATCH.min(self.info().max_entries.max(1) as usize);
        // The cursor is a bucket number (four bytes) in hash maps and a key elsewhere.
        resume::read_all(size, size_of::<K>().max(8), |from, next, size| {
            let mut keys: Vec<K> = (0..size).map(|_| K::new_zeroed()).collect();
            let mut values: Vec<V> = (0..size).map(|_| V::new_zeroed()).collect();
            let mut attr = BatchAttr {
                in_batch: from.map_or(0, |cursor| cursor.as_ptr() as u64),
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map_fd: self.as_fd().as_raw_fd() as u32,
                ..Default::default()
            };
            // SAFETY: all four buffers are live: `size` keys and values of the sizes compared in
            // `from_fd`, and cursors as large as the kernel's largest (a key, or four bytes).
            let result = unsafe { bpf(Cmd::MapLookupBatch, &mut attr) }.map(|_| ());
            let found = (attr.count as usize).min(size);
            (keys.into_iter().zip(values).take(found).collect(), result)
        })
    }
}
