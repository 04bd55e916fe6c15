//! Many entries in one call.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Map;
use super::sys::{BatchAttr, BpfError, Cmd, bpf, unsupported};

/// Entries per batch call: large enough to make the call's price vanish, small enough for the
/// kernel to find the memory.
const BATCH: usize = 4096;

impl<K, V> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// Writes `keys[i] -> values[i]` in as few calls as the kernel allows, in that order.
    ///
    /// # Errors
    /// The first error; what stands before it is written. A batch that the kernel cuts short for
    /// want of memory is resumed where it stopped.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BpfError> {
        if keys.len() != values.len() {
            let e = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(self.fail("write unequal numbers of keys and values to", e));
        }
        self.single_value().map_err(|e| self.fail("write to", e))?;
        let mut done = 0;
        while done < keys.len() {
            let end = keys.len().min(done + BATCH);
            let (k, v) = (&keys[done..end], &values[done..end]);
            let (written, r) = self.write_batch(Cmd::MapUpdateBatch, k, v.as_ptr() as u64);
            done += written;
            match r {
                Ok(()) => {}
                Err(e) if unsupported(&e) && written == 0 => {
                    self.update(&keys[done], &values[done])?;
                    done += 1;
                }
                Err(e) if retry(&e, written) => {}
                Err(e) => return Err(self.fail("write a batch to", e)),
            }
        }
        Ok(())
    }

    /// Removes `keys` in as few calls as the kernel allows; absent ones don't matter.
    ///
    /// # Errors
    /// The first error; what stands before it is gone.
    pub fn delete_batch(&self, keys: &[K]) -> Result<(), BpfError> {
        let mut done = 0;
        while done < keys.len() {
            let end = keys.len().min(done + BATCH);
            let (gone, r) = self.write_batch(Cmd::MapDeleteBatch, &keys[done..end], 0);
            done += gone;
            match r {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && done < keys.len() => done += 1,
                Err(e) if unsupported(&e) && gone == 0 => {
                    self.delete(&keys[done])?;
                    done += 1;
                }
                Err(e) if retry(&e, gone) => {}
                Err(e) => return Err(self.fail("delete a batch from", e)),
            }
        }
        Ok(())
    }

    /// One batch call; how many entries the kernel got through, and how it ended.
    fn write_batch(&self, cmd: Cmd, keys: &[K], values: u64) -> (usize, io::Result<()>) {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values,
            count: keys.len() as u32,
            map_fd: self.as_fd().as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: `keys`, and `values` where the command reads them, hold `count` entries of the
        // sizes compared in `from_fd`.
        let r = unsafe { bpf(cmd, &mut attr) };
        // Before it looks at the arguments, the kernel leaves `count` as it was.
        let done = match &r {
            Err(e) if unsupported(e) || e.raw_os_error() == Some(libc::EFAULT) => 0,
            _ => (attr.count as usize).min(keys.len()),
        };
        (done, r.map(|_| ()))
    }

    /// Every entry. In a map that changes meanwhile, entries may be missed or come twice.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        self.single_value().map_err(|e| self.fail("read", e))?;
        match self.entries_batched() {
            Ok(all) => Ok(all),
            // The kernel has no batches for this map type, or a writer got in the walk's way.
            Err(_) => self.entries_one_by_one(),
        }
    }

    fn entries_one_by_one(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut all = Vec::new();
        let mut key = self.next_key(None)?;
        // A map under writers can start over for ever: stop at twice its size.
        for _ in 0..u64::from(self.info().max_entries) * 2 {
            let Some(k) = key else { break };
            key = self.next_key(Some(&k))?;
            if let Some(v) = self.lookup(&k)? {
                all.push((k, v));
            }
        }
        Ok(all)
    }

    fn entries_batched(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut size = BATCH.min(self.info().max_entries.max(1) as usize);
        let mut all = Vec::new();
        // The cursor is a bucket number in hash maps and a key elsewhere.
        let mut cursor = vec![0u8; size_of::<K>().max(8)];
        let mut next = cursor.clone();
        let mut first = true;
        loop {
            let mut keys: Vec<K> = (0..size).map(|_| K::new_zeroed()).collect();
            let mut values: Vec<V> = (0..size).map(|_| V::new_zeroed()).collect();
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map_fd: self.as_fd().as_raw_fd() as u32,
                ..Default::default()
            };
            // SAFETY: all four buffers are live: `size` keys and values of the sizes compared in
            // `from_fd`, and cursors as large as the kernel's largest (a key, or four bytes).
            let r = unsafe { bpf(Cmd::MapLookupBatch, &mut attr) };
            let end = match r {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket of a hash map holds more than we offered room for.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 24 => {
                    size *= 2;
                    continue;
                }
                Err(e) => return Err(self.fail("read a batch from", e)),
            };
            let found = (attr.count as usize).min(size);
            all.extend(keys.into_iter().zip(values).take(found));
            if end {
                return Ok(all);
            }
            std::mem::swap(&mut cursor, &mut next);
            first = false;
        }
    }
}

/// Whether a batch that got somewhere may go on from there.
fn retry(e: &io::Error, progress: usize) -> bool {
    let errno = e.raw_os_error();
    errno == Some(libc::EINTR)
        || progress > 0 && matches!(errno, Some(libc::ENOMEM | libc::EAGAIN | libc::EBUSY))
}
