//! Untyped maps: keys and values as bytes, many entries per call.
//!
//! A caller that handles tables by declaration (name, key size, value size) rather than by type
//! uses [`RawMap`]. Entries are concatenated: `keys` holds `n * key_size` bytes and `values` holds
//! `n * value_size` bytes, in the same order. The sizes are compared with the kernel's when the map
//! is opened, so a buffer of the right length is all that a call has to check.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::object::{MapInfo, map_info, obj_get};
use super::sys::{BatchAttr, BpfError, Cmd, ElemAttr, bpf, unsupported};

/// Entries per batch call: enough to make the cost of a call negligible, few enough for the kernel
/// to allocate its buffers.
const BATCH: usize = 4096;

/// An open map of any type that keeps one value per key.
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
    /// Those of [`obj_get`]; `InvalidData` for other sizes and for per-CPU maps, of which the
    /// kernel copies one value per CPU.
    pub fn open_pinned(
        path: impl AsRef<Path>,
        key_size: usize,
        value_size: usize,
    ) -> Result<RawMap, BpfError> {
        let fd = obj_get(path.as_ref())?;
        let info = map_info(&fd)?;
        let sizes = (info.key_size as usize, info.value_size as usize);
        // PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
        let per_cpu = matches!(info.map_type, 5 | 6 | 10 | 21);
        if sizes != (key_size, value_size) || per_cpu {
            return Err(BpfError::new(
                format!(
                    "map {} of type {} has {}-byte keys and {}-byte values, expected {key_size} \
                     and {value_size}",
                    info.name, info.map_type, sizes.0, sizes.1
                ),
                io::ErrorKind::InvalidData.into(),
            ));
        }
        Ok(RawMap { fd, info })
    }

    /// Shape of the map, read when it was opened.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Writes entries in as few calls as the kernel allows, in their order.
    ///
    /// # Errors
    /// `InvalidInput` for buffers with unequal numbers of entries or an incomplete entry; else the
    /// kernel's first error. Entries before it are written. A batch that ends early for lack of
    /// memory is resumed.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), BpfError> {
        let total = self.count(keys, "write to")?;
        let (k, v) = self.sizes();
        if values.len() != total * v {
            return Err(self.fail("write to", io::ErrorKind::InvalidInput.into()));
        }
        let mut done = 0;
        while done < total {
            let end = total.min(done + BATCH);
            let (keys, values) = (&keys[done * k..end * k], &values[done * v..end * v]);
            let (written, r) = self.batch(Cmd::MapUpdateBatch, keys, values.as_ptr() as u64);
            done += written;
            match r {
                Ok(()) => {}
                Err(e) if unsupported(&e) && written == 0 => {
                    self.update_one(&keys[..k], &values[..v])?;
                    done += 1;
                }
                Err(e) if may_resume(&e, written) => {}
                Err(e) => return Err(self.fail("write a batch to", e)),
            }
        }
        Ok(())
    }

    /// Removes entries in as few calls as the kernel allows. Absent keys are skipped.
    ///
    /// # Errors
    /// `InvalidInput` for an incomplete buffer; else the kernel's first error. Entries before
    /// it are removed.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<(), BpfError> {
        let total = self.count(keys, "delete from")?;
        let (k, _) = self.sizes();
        let mut done = 0;
        while done < total {
            let end = total.min(done + BATCH);
            let (removed, r) = self.batch(Cmd::MapDeleteBatch, &keys[done * k..end * k], 0);
            done += removed;
            match r {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && done < total => done += 1,
                Err(e) if unsupported(&e) && removed == 0 => {
                    self.delete_one(&keys[done * k..(done + 1) * k])?;
                    done += 1;
                }
                Err(e) if may_resume(&e, removed) => {}
                Err(e) => return Err(self.fail("delete a batch from", e)),
            }
        }
        Ok(())
    }

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// `InvalidInput` for a key of another size; else the kernel's error, other than ENOENT.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BpfError> {
        if self.count(key, "read from")? != 1 {
            return Err(self.fail("read from", io::ErrorKind::InvalidInput.into()));
        }
        let mut value = vec![0u8; self.sizes().1];
        let mut attr = self.elem(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value are live and have the map's sizes; per-CPU maps are refused when
        // the map is opened.
        match unsafe { bpf(Cmd::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("read from", e)),
        }
    }

    /// Every entry. While another program writes, entries may be missed or returned twice.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn entries(&self) -> Result<RawEntries, BpfError> {
        match self.entries_batched() {
            Ok(all) => Ok(all),
            // The map type has no batches on this kernel, or a writer interrupted the iteration.
            Err(_) => self.entries_one_by_one(),
        }
    }

    fn entries_batched(&self) -> Result<RawEntries, BpfError> {
        let (k, v) = self.sizes();
        let mut size = BATCH.min(self.info.max_entries.max(1) as usize);
        let mut all = RawEntries::default();
        // The cursor is a bucket number in hash maps and a key elsewhere.
        let mut cursor = vec![0u8; k.max(8)];
        let mut next = cursor.clone();
        let mut first = true;
        loop {
            let (mut keys, mut values) = (vec![0u8; size * k], vec![0u8; size * v]);
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                ..Default::default()
            };
            // SAFETY: all four buffers are live: `size` keys and values of the map's sizes, and
            // cursors as large as the kernel's largest (a key, or four bytes).
            let end = match unsafe { bpf(Cmd::MapLookupBatch, &mut attr) } {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket of a hash map holds more entries than the buffer.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 24 => {
                    size *= 2;
                    continue;
                }
                Err(e) => return Err(self.fail("read a batch from", e)),
            };
            let found = (attr.count as usize).min(size);
            all.keys.extend_from_slice(&keys[..found * k]);
            all.values.extend_from_slice(&values[..found * v]);
            if end {
                return Ok(all);
            }
            std::mem::swap(&mut cursor, &mut next);
            first = false;
        }
    }

    fn entries_one_by_one(&self) -> Result<RawEntries, BpfError> {
        let mut all = RawEntries::default();
        let mut key = self.next_key(None)?;
        // Deletions by another program restart the iteration: stop at twice the map's size.
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

    fn update_one(&self, key: &[u8], value: &[u8]) -> Result<(), BpfError> {
        let mut attr = self.elem(key, value.as_ptr() as u64);
        // SAFETY: key and value are live and have the map's sizes; the kernel only reads.
        unsafe { bpf(Cmd::MapUpdate, &mut attr) }.map(|_| ()).map_err(|e| self.fail("write to", e))
    }

    fn delete_one(&self, key: &[u8]) -> Result<(), BpfError> {
        let mut attr = self.elem(key, 0);
        // SAFETY: the key is live and has the map's size.
        match unsafe { bpf(Cmd::MapDelete, &mut attr) } {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(self.fail("delete from", e)),
            _ => Ok(()),
        }
    }

    /// One batch call: the number of entries that the kernel processed, and how the call ended.
    fn batch(&self, cmd: Cmd, keys: &[u8], values: u64) -> (usize, io::Result<()>) {
        let count = keys.len() / self.sizes().0;
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values,
            count: count as u32,
            map_fd: self.fd.as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: `keys`, and `values` where the command reads them, hold `count` entries of the
        // map's sizes.
        let r = unsafe { bpf(cmd, &mut attr) };
        // The kernel leaves `count` unchanged if it refuses the call before the first entry.
        let done = match &r {
            Err(e) if unsupported(e) || e.raw_os_error() == Some(libc::EFAULT) => 0,
            _ => (attr.count as usize).min(count),
        };
        (done, r.map(|_| ()))
    }

    fn elem(&self, key: &[u8], value: u64) -> ElemAttr {
        let map_fd = self.fd.as_raw_fd() as u32;
        ElemAttr { map_fd, pad: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }

    fn sizes(&self) -> (usize, usize) {
        (self.info.key_size as usize, self.info.value_size as usize)
    }

    /// Number of keys in a buffer.
    fn count(&self, keys: &[u8], verb: &str) -> Result<usize, BpfError> {
        let k = self.sizes().0;
        if k == 0 || !keys.len().is_multiple_of(k) {
            return Err(self.fail(verb, io::ErrorKind::InvalidInput.into()));
        }
        Ok(keys.len() / k)
    }

    fn fail(&self, verb: &str, e: io::Error) -> BpfError {
        BpfError::new(format!("{verb} map {}", self.info.name), e)
    }
}

/// Whether a batch that made progress, or was interrupted, continues from where it stopped.
fn may_resume(e: &io::Error, progress: usize) -> bool {
    let errno = e.raw_os_error();
    errno == Some(libc::EINTR)
        || progress > 0 && matches!(errno, Some(libc::ENOMEM | libc::EAGAIN | libc::EBUSY))
}
