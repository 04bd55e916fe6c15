//! Typed maps, one entry per call; `batch` adds calls for many entries.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpu::possible_cpus;
use crate::object::{MapInfo, obj_get};
use crate::raw::RawMap;
use crate::sys::{BpfError, Cmd, ElemAttr, bpf};

/// An open map with keys `K` and values `V`; opening compares their sizes with the kernel's.
#[derive(Debug)]
pub struct Map<K, V> {
    raw: RawMap,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
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

    /// Wraps an open map.
    ///
    /// # Errors
    /// `InvalidData` if the sizes of its keys or values differ from those of `K` or `V`: the kernel
    /// would read or write past the structs.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        let raw = RawMap::from_fd(fd, size_of::<K>(), size_of::<V>())?;
        Ok(Map { raw, types: PhantomData })
    }

    /// Type, sizes and capacity of the map, read when it was opened.
    pub fn info(&self) -> &MapInfo {
        self.raw.info()
    }

    pub(crate) fn raw(&self) -> &RawMap {
        &self.raw
    }

    fn fail(&self, verb: &str, e: io::Error) -> BpfError {
        self.raw.fail(verb, e)
    }

    fn elem(&self, key: *const K, value: u64, flags: u64) -> ElemAttr {
        ElemAttr {
            map_fd: self.raw.as_fd().as_raw_fd() as u32,
            pad: 0,
            key: key as u64,
            value,
            flags,
        }
    }

    /// Returns the value of `key`, or `None` if the map has no such entry.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); any error of the kernel other than ENOENT.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, BpfError> {
        let mut value = V::new_zeroed();
        let mut attr = self.elem(key, std::ptr::from_mut(&mut value) as u64, 0);
        // SAFETY: key and value are live and of the sizes compared in `from_fd`; per-CPU maps, for
        // which the kernel writes more, are rejected before the call.
        match self.raw.single_value().and_then(|()| unsafe { bpf(Cmd::MapLookup, &mut attr) }) {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("read from", e)),
        }
    }

    /// Returns one value for each possible CPU of a per-CPU map, or `None` if the map has no such
    /// entry.
    ///
    /// # Errors
    /// The number of CPUs cannot be read; any error of the kernel other than ENOENT.
    pub fn lookup_per_cpu(&self, key: &K) -> Result<Option<Vec<V>>, BpfError> {
        let cpus = possible_cpus().map_err(|e| self.fail("count the CPUs for", e))?;
        // The kernel places the values at multiples of eight bytes.
        let stride = size_of::<V>().next_multiple_of(8);
        let mut raw = vec![0u8; stride * cpus];
        let mut attr = self.elem(key, raw.as_mut_ptr() as u64, 0);
        // SAFETY: the kernel writes one value for each possible CPU, and the buffer holds as many.
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

    /// Inserts or replaces one entry.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); E2BIG if the map is full; any other error of the kernel.
    pub fn update(&self, key: &K, value: &V) -> Result<(), BpfError> {
        self.put(key, value).map_err(|e| self.fail("write to", e))
    }

    fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.raw.single_value()?;
        let mut attr = self.elem(key, std::ptr::from_ref(value) as u64, 0);
        // SAFETY: as in `lookup`; the kernel only reads.
        unsafe { bpf(Cmd::MapUpdate, &mut attr) }.map(|_| ())
    }

    /// Deletes one entry; returns whether it existed.
    ///
    /// # Errors
    /// Any error of the kernel other than ENOENT.
    pub fn delete(&self, key: &K) -> Result<bool, BpfError> {
        self.remove(key).map_err(|e| self.fail("delete from", e))
    }

    fn remove(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.elem(key, 0, 0);
        // SAFETY: the key is live and of the size compared in `from_fd`.
        match unsafe { bpf(Cmd::MapDelete, &mut attr) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Returns the key after `key`, the first key if `key` is `None`, or `None` at the end. A hash
    /// map starts over if `key` was deleted meanwhile.
    ///
    /// # Errors
    /// Any error of the kernel other than ENOENT.
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
}

/// Rejects a map whose keys or values differ in size from the types used for them.
pub(crate) fn check_sizes(info: &MapInfo, key: usize, value: usize) -> Result<(), BpfError> {
    if info.key_size as usize == key && info.value_size as usize == value {
        return Ok(());
    }
    let doing = format!(
        "map {} has {}-byte keys and {}-byte values, expected {key} and {value}",
        info.name, info.key_size, info.value_size
    );
    Err(BpfError::new(doing, io::Error::from(io::ErrorKind::InvalidData)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(map_type: u32) -> MapInfo {
        let name = "LOCAL_PODS".to_owned();
        MapInfo { map_type, id: 1, key_size: 16, value_size: 16, max_entries: 8, flags: 0, name }
    }

    #[test]
    fn a_map_with_other_sizes_is_rejected() {
        assert!(check_sizes(&info(1), 16, 16).is_ok());
        for (key, value) in [(4, 16), (16, 4), (4, 4)] {
            let error = check_sizes(&info(1), key, value).map_err(|e| e.to_string());
            let expected = format!(
                "map LOCAL_PODS has 16-byte keys and 16-byte values, expected {key} and {value}"
            );
            assert_eq!(error, Err(expected));
        }
    }

    #[test]
    fn per_cpu_types_are_those_of_the_kernel() {
        // enum bpf_map_type, include/uapi/linux/bpf.h
        let per_cpu: Vec<u32> = (0..34).filter(|number| info(*number).is_per_cpu()).collect();
        assert_eq!(per_cpu, [5, 6, 10, 21]);
    }
}
