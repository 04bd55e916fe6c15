//! Untyped maps: keys and values as bytes, many entries per call.
//!
//! [`RawMap`] serves callers that handle tables by declaration (name, key size, value size), and is
//! what [`Map`](crate::Map) wraps. Entries are concatenated: `keys` holds `n * key_size` bytes and
//! `values` holds `n * value_size` bytes, in the same order. The sizes are compared with the kernel's
//! when the map is opened. This file makes the batch calls; [`resume`] decides what follows each
//! answer of the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::batch::resume::{self, Operation};
use crate::cpu::possible_cpus;
use crate::object::{MapInfo, map_info, obj_get};
use crate::sys::{BatchAttr, BpfError, Cmd, ElemAttr, bpf};

/// Entries offered in one call: enough to make the cost of a call negligible, few enough for the
/// kernel to allocate its buffers.
const BATCH: usize = 4096;

/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// An open map.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
}

/// Entries of a map, concatenated: `keys` and `values` have the same number of elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawEntries {
    /// Keys, one after the other.
    pub keys: Vec<u8>,
    /// Values, in the order of the keys.
    pub values: Vec<u8>,
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl RawMap {
    /// Opens the map pinned at `path`, which must have keys and values of these sizes.
    ///
    /// # Errors
    /// Those of [`obj_get`], and those of [`RawMap::from_fd`].
    pub fn open_pinned(
        path: impl AsRef<Path>,
        key_size: usize,
        value_size: usize,
    ) -> Result<RawMap, BpfError> {
        Self::from_fd(obj_get(path.as_ref())?, key_size, value_size)
    }

    /// Wraps an open map, which must have keys and values of these sizes.
    ///
    /// # Errors
    /// `InvalidData` for other sizes.
    pub fn from_fd(fd: OwnedFd, key_size: usize, value_size: usize) -> Result<RawMap, BpfError> {
        let info = map_info(&fd)?;
        info.check_sizes(key_size, value_size)?;
        Ok(RawMap { fd, info })
    }

    /// Wraps an open map with keys and values of any size.
    ///
    /// # Errors
    /// The descriptor is not a map.
    pub fn from_any(fd: OwnedFd) -> Result<RawMap, BpfError> {
        let info = map_info(&fd)?;
        Ok(RawMap { fd, info })
    }

    /// Type, sizes and capacity of the map, read when it was opened.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Writes entries, in order, in as few calls as the kernel allows.
    ///
    /// # Errors
    /// Buffers of unequal or broken length, or a per-CPU map (`InvalidInput`); the first error of the
    /// kernel. The entries before the failed one are written. A batch that the kernel ends early for
    /// lack of memory is resumed where it ended.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), BpfError> {
        let fail = |e| self.fail("write a batch to", e);
        let (k, v) = self.sizes();
        let total = self.count(keys).map_err(fail)?;
        if values.len() != total * v {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        }
        resume::change_all(
            Operation::Update,
            total,
            |range| {
                let end = total.min(range.start + BATCH);
                let values = values[range.start * v..end * v].as_ptr() as u64;
                self.change_batch(Cmd::MapUpdateBatch, &keys[range.start * k..end * k], values)
            },
            |n| self.put(&keys[n * k..(n + 1) * k], &values[n * v..(n + 1) * v]),
        )
        .map_err(fail)
    }

    /// Inserts one entry unless the map has its key; returns whether it did. Programs that write the
    /// same key meanwhile win.
    ///
    /// # Errors
    /// A key or value of another size, or a per-CPU map (`InvalidInput`); E2BIG if the map is full;
    /// any other error of the kernel.
    pub fn insert_absent(&self, key: &[u8], value: &[u8]) -> Result<bool, BpfError> {
        let fail = |e| self.fail("write to", e);
        if self.count(key).map_err(fail)? != 1 || value.len() != self.sizes().1 {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        }
        let mut attr = self.elem(key, value.as_ptr() as u64);
        attr.flags = NOEXIST;
        // SAFETY: key and value are live and have the map's sizes; the kernel only reads.
        match unsafe { bpf(Cmd::MapUpdate, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }

    /// Deletes entries in as few calls as the kernel allows; absent keys are skipped.
    ///
    /// # Errors
    /// A buffer of broken length, or a per-CPU map (`InvalidInput`); the first error of the kernel
    /// other than ENOENT. The entries before the failed one are deleted.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<(), BpfError> {
        let fail = |e| self.fail("delete a batch from", e);
        let (k, _) = self.sizes();
        let total = self.count(keys).map_err(fail)?;
        resume::change_all(
            Operation::Delete,
            total,
            |range| {
                let end = total.min(range.start + BATCH);
                self.change_batch(Cmd::MapDeleteBatch, &keys[range.start * k..end * k], 0)
            },
            |n| self.remove(&keys[n * k..(n + 1) * k]).map(|_| ()),
        )
        .map_err(fail)
    }

    /// Returns the value of `key`, or `None` if the map has no such entry.
    ///
    /// # Errors
    /// A key of another size, or a per-CPU map (`InvalidInput`); any error of the kernel other than
    /// ENOENT.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BpfError> {
        let fail = |e| self.fail("read from", e);
        if self.count(key).map_err(fail)? != 1 {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        }
        let mut value = vec![0u8; self.sizes().1];
        let mut attr = self.elem(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value are live and have the map's sizes; `count` rejects per-CPU maps, for
        // which the kernel writes more.
        match unsafe { bpf(Cmd::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }

    /// Returns the value of `key` for each possible CPU of a per-CPU map, or `None` if the map has no
    /// such entry. `key` has the map's size.
    ///
    /// # Errors
    /// The number of CPUs cannot be read; any error of the kernel other than ENOENT.
    pub(crate) fn lookup_per_cpu(&self, key: &[u8]) -> Result<Option<Vec<Vec<u8>>>, BpfError> {
        let cpus = possible_cpus().map_err(|e| self.fail("count the CPUs for", e))?;
        let size = self.sizes().1;
        // The kernel places the values at multiples of eight bytes.
        let stride = size.next_multiple_of(8);
        let mut values = vec![0u8; stride * cpus];
        let mut attr = self.elem(key, values.as_mut_ptr() as u64);
        // SAFETY: the key has the map's size. The kernel writes one value for each possible CPU, and
        // the buffer holds as many.
        match unsafe { bpf(Cmd::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(values.chunks_exact(stride).map(|v| v[..size].to_vec()).collect())),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("read from", e)),
        }
    }

    /// Reads every entry. Concurrent writers can hide entries or make them appear twice.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); any error of the kernel.
    pub fn entries(&self) -> Result<RawEntries, BpfError> {
        self.single_value().map_err(|e| self.fail("read", e))?;
        // Some map types have no batches, and a writer can interrupt a walk.
        self.entries_batched().or_else(|_| self.entries_one_by_one())
    }

    /// Reads up to `limit` entries after the one with key `after` (`None`: the first ones), in the
    /// order of the map. No entry follows the last one. If `after` was deleted meanwhile, a hash map
    /// starts over.
    ///
    /// # Errors
    /// A key of another size, or a per-CPU map (`InvalidInput`); any error of the kernel.
    pub fn entries_after(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawEntries, BpfError> {
        let invalid = self.count(after.unwrap_or_default());
        invalid.map_err(|e| self.fail("read", e))?;
        let mut found = RawEntries::default();
        let mut key = self.next_key(after)?;
        for _ in 0..limit {
            let Some(k) = key else { break };
            if let Some(value) = self.lookup(&k)? {
                found.keys.extend_from_slice(&k);
                found.values.extend_from_slice(&value);
            }
            key = self.next_key(Some(&k))?;
        }
        Ok(found)
    }

    /// Passes every entry to `visit`, in chunks. Concurrent writers can hide entries or make them
    /// appear twice.
    ///
    /// # Errors
    /// A map type without batches; any error of the kernel. Some chunks may have been visited.
    pub fn visit(&self, mut visit: impl FnMut(&RawEntries)) -> Result<(), BpfError> {
        let read = self.single_value().and_then(|()| self.visit_batched(&mut visit));
        read.map_err(|e| self.fail("read", e))
    }

    fn entries_batched(&self) -> io::Result<RawEntries> {
        let mut all = RawEntries::default();
        self.visit_batched(&mut |chunk: &RawEntries| {
            all.keys.extend_from_slice(&chunk.keys);
            all.values.extend_from_slice(&chunk.values);
        })?;
        Ok(all)
    }

    fn visit_batched(&self, visit: &mut dyn FnMut(&RawEntries)) -> io::Result<()> {
        let (k, v) = self.sizes();
        let size = BATCH.min(self.info.max_entries.max(1) as usize);
        // The cursor is a bucket number (four bytes) in hash maps and a key elsewhere.
        let batch = |from: Option<&[u8]>, next: &mut [u8], size: usize| {
            let (mut keys, mut values) = (vec![0u8; size * k], vec![0u8; size * v]);
            let mut attr = BatchAttr {
                in_batch: from.map_or(0, |cursor| cursor.as_ptr() as u64),
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                ..Default::default()
            };
            // SAFETY: all four buffers are live: `size` keys and values of the map's sizes, and
            // cursors as large as the kernel's largest (a key, or four bytes).
            let result = unsafe { bpf(Cmd::MapLookupBatch, &mut attr) }.map(|_| ());
            let found = (attr.count as usize).min(size);
            keys.truncate(found * k);
            values.truncate(found * v);
            (RawEntries { keys, values }, result)
        };
        resume::read_all(size, k.max(8), batch, |chunk| visit(&chunk))
    }

    fn entries_one_by_one(&self) -> Result<RawEntries, BpfError> {
        let mut all = RawEntries::default();
        let mut key = self.next_key(None)?;
        // Concurrent deletions can make a hash map start over without end: stop at twice its size.
        for _ in 0..u64::from(self.info.max_entries) * 2 {
            let Some(k) = key else { break };
            key = self.next_key(Some(&k))?;
            if let Some(value) = self.lookup(&k)? {
                all.keys.extend_from_slice(&k);
                all.values.extend_from_slice(&value);
            }
        }
        Ok(all)
    }

    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, BpfError> {
        let mut next = vec![0u8; self.sizes().0];
        let mut attr = self.elem(key.unwrap_or_default(), next.as_mut_ptr() as u64);
        if key.is_none() {
            attr.key = 0;
        }
        // SAFETY: both keys are live and have the map's size, or the first is null.
        match unsafe { bpf(Cmd::MapNextKey, &mut attr) } {
            Ok(_) => Ok(Some(next)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("walk", e)),
        }
    }

    /// Inserts or replaces one entry. Key and value have the map's sizes, and the map is not per CPU.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attr = self.elem(key, value.as_ptr() as u64);
        // SAFETY: key and value are live and have the map's sizes; the kernel only reads.
        unsafe { bpf(Cmd::MapUpdate, &mut attr) }.map(|_| ())
    }

    /// Deletes one entry; returns whether it existed. The key has the map's size.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.elem(key, 0);
        // SAFETY: the key is live and has the map's size.
        match unsafe { bpf(Cmd::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// One call: the number of entries that the kernel processed, and how the call ended.
    fn change_batch(&self, cmd: Cmd, keys: &[u8], values: u64) -> (usize, io::Result<()>) {
        let offered = keys.len() / self.sizes().0;
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values,
            count: offered as u32,
            map_fd: self.fd.as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: `keys`, and `values` where the command reads them, hold `count` entries of the
        // map's sizes.
        let result = unsafe { bpf(cmd, &mut attr) }.map(|_| ());
        (resume::processed(&result, attr.count as usize, offered), result)
    }

    fn elem(&self, key: &[u8], value: u64) -> ElemAttr {
        let map_fd = self.fd.as_raw_fd() as u32;
        ElemAttr { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }

    fn sizes(&self) -> (usize, usize) {
        (self.info.key_size as usize, self.info.value_size as usize)
    }

    /// Number of keys in a buffer for a map with one value per key.
    fn count(&self, keys: &[u8]) -> io::Result<usize> {
        self.single_value()?;
        let k = self.sizes().0;
        if k == 0 || !keys.len().is_multiple_of(k) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(keys.len() / k)
    }

    /// Rejects per-CPU maps: the kernel copies one value per CPU.
    pub(crate) fn single_value(&self) -> io::Result<()> {
        if self.info.is_per_cpu() {
            let why = "per-CPU maps are read with lookup_per_cpu";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(())
    }

    pub(crate) fn fail(&self, verb: &str, e: io::Error) -> BpfError {
        BpfError::new(format!("{verb} map {}", self.info.name), e)
    }
}
