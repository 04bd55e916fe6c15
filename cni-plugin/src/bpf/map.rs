//! Typed maps: single entries, walks and batches.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::object::{MapInfo, map_info, obj_get};
use super::sys::{BatchAttr, BpfError, Cmd, ElemAttr, bpf, unsupported};

/// Entries per batch call: large enough to make the call's price vanish, small enough for the
/// kernel to find the memory.
const BATCH: usize = 4096;

/// An open map with keys `K` and values `V`, whose sizes were compared with the kernel's word.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    info: MapInfo,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<K, V> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    /// Opens the map pinned at `path`.
    ///
    /// # Errors
    /// Those of [`obj_get`], and those of [`Map::from_fd`].
    pub fn open_pinned(path: impl AsRef<Path>) -> Result<Self, BpfError> {
        Self::from_fd(obj_get(path.as_ref())?)
    }

    /// Takes over an open map.
    ///
    /// # Errors
    /// `InvalidData` if its key or value has another size than `K` or `V`: the kernel would read
    /// or write past our structs.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        let info = map_info(&fd)?;
        if info.key_size as usize != size_of::<K>() || info.value_size as usize != size_of::<V>() {
            return Err(BpfError::new(
                format!(
                    "map {} has {}-byte keys and {}-byte values, expected {} and {}",
                    info.name,
                    info.key_size,
                    info.value_size,
                    size_of::<K>(),
                    size_of::<V>()
                ),
                io::Error::from(io::ErrorKind::InvalidData),
            ));
        }
        Ok(Map { fd, info, types: PhantomData })
    }

    /// Shape of the map, read when it was opened.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    fn fail(&self, verb: &str, e: io::Error) -> BpfError {
        BpfError::new(format!("{verb} map {}", self.info.name), e)
    }

    fn elem(&self, key: *const K, value: u64, flags: u64) -> ElemAttr {
        ElemAttr { map_fd: self.fd.as_raw_fd() as u32, pad: 0, key: key as u64, value, flags }
    }

    /// The value of `key`, if it has one. Not for per-CPU maps.
    ///
    /// # Errors
    /// What the kernel says, other than ENOENT.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, BpfError> {
        let mut value = V::new_zeroed();
        let mut attr = self.elem(key, std::ptr::from_mut(&mut value) as u64, 0);
        // SAFETY: key and value are live and of the sizes compared in `from_fd`; per-CPU maps
        // are refused below, they would write more.
        match self.single_value().and_then(|()| unsafe { bpf(Cmd::MapLookup, &mut attr) }) {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("read from", e)),
        }
    }

    /// One value per possible CPU, for per-CPU maps.
    ///
    /// # Errors
    /// What the kernel says, ENOENT (as `None`) apart.
    pub fn lookup_per_cpu(&self, key: &K) -> Result<Option<Vec<V>>, BpfError> {
        let cpus = possible_cpus().map_err(|e| self.fail("count the CPUs for", e))?;
        // The kernel lays the values out at multiples of eight bytes.
        let stride = size_of::<V>().next_multiple_of(8);
        let mut raw = vec![0u8; stride * cpus];
        let mut attr = self.elem(key, raw.as_mut_ptr() as u64, 0);
        // SAFETY: the buffer has room for every possible CPU, which is what the kernel writes.
        match unsafe { bpf(Cmd::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(
                raw.chunks_exact(stride)
                    .filter_map(|c| V::read_from_prefix(c).ok().map(|(v, _)| v))
                    .collect(),
            )),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("read from", e)),
        }
    }

    /// Writes one entry, whether it exists or not.
    ///
    /// # Errors
    /// What the kernel says; E2BIG when the map is full.
    pub fn update(&self, key: &K, value: &V) -> Result<(), BpfError> {
        let mut attr = self.elem(key, std::ptr::from_ref(value) as u64, 0);
        // SAFETY: as in `lookup`; the kernel only reads.
        self.single_value()
            .and_then(|()| unsafe { bpf(Cmd::MapUpdate, &mut attr) })
            .map(|_| ())
            .map_err(|e| self.fail("write to", e))
    }

    /// Removes one entry; tells whether it was there.
    ///
    /// # Errors
    /// What the kernel says, other than ENOENT.
    pub fn delete(&self, key: &K) -> Result<bool, BpfError> {
        let mut attr = self.elem(key, 0, 0);
        // SAFETY: the key is live and of the size compared in `from_fd`.
        match unsafe { bpf(Cmd::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(self.fail("delete from", e)),
        }
    }

    /// The key after `key`, or the first one; `None` at the end. A key that was deleted meanwhile
    /// starts a hash map over.
    ///
    /// # Errors
    /// What the kernel says, other than ENOENT.
    pub fn next_key(&self, key: Option<&K>) -> Result<Option<K>, BpfError> {
        let mut next = K::new_zeroed();
        let at = key.map_or(std::ptr::null(), std::ptr::from_ref);
        let mut attr = self.elem(at, std::ptr::from_mut(&mut next) as u64, 0);
        // SAFETY: both keys are live and of the size compared in `from_fd`, or null.
        match unsafe { bpf(Cmd::MapNextKey, &mut attr) } {
            Ok(_) => Ok(Some(next)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("walk", e)),
        }
    }

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
            map_fd: self.fd.as_raw_fd() as u32,
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
        for _ in 0..u64::from(self.info.max_entries) * 2 {
            let Some(k) = key else { break };
            key = self.next_key(Some(&k))?;
            if let Some(v) = self.lookup(&k)? {
                all.push((k, v));
            }
        }
        Ok(all)
    }

    fn entries_batched(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut size = BATCH.min(self.info.max_entries.max(1) as usize);
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
                map_fd: self.fd.as_raw_fd() as u32,
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

    /// Refuses per-CPU maps: the kernel moves one value per CPU and would run past ours.
    fn single_value(&self) -> io::Result<()> {
        // PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE
        match self.info.map_type {
            5 | 6 | 10 | 21 => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a per-CPU map: use lookup_per_cpu",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a batch that got somewhere may go on from there.
fn retry(e: &io::Error, progress: usize) -> bool {
    let errno = e.raw_os_error();
    errno == Some(libc::EINTR)
        || progress > 0 && matches!(errno, Some(libc::ENOMEM | libc::EAGAIN | libc::EBUSY))
}

/// CPUs that the kernel reserves per-CPU values for (`/sys/devices/system/cpu/possible`).
///
/// # Errors
/// If the file cannot be read or says something else than ranges of numbers.
pub fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "unreadable list of CPUs");
    let mut last = 0usize;
    for range in text.trim().split(',') {
        let end = range.rsplit('-').next().ok_or_else(bad)?;
        last = last.max(end.parse::<usize>().map_err(|_| bad())?);
    }
    Ok(last + 1)
}
