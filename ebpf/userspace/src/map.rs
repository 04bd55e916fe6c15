//! Typed maps, one entry per call; `batch` adds calls for many entries.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::object::{MapInfo, obj_get};
use crate::raw::RawMap;
use crate::sys::BpfError;

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

    /// Returns the value of `key`, or `None` if the map has no such entry.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); any error of the kernel other than ENOENT.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, BpfError> {
        Ok(self.raw.lookup(key.as_bytes())?.and_then(|value| V::read_from_bytes(&value).ok()))
    }

    /// Returns one value for each possible CPU of a per-CPU map, or `None` if the map has no such
    /// entry.
    ///
    /// # Errors
    /// The number of CPUs cannot be read; any error of the kernel other than ENOENT.
    pub fn lookup_per_cpu(&self, key: &K) -> Result<Option<Vec<V>>, BpfError> {
        let values = self.raw.lookup_per_cpu(key.as_bytes())?;
        Ok(values.map(|values| values.iter().flat_map(|v| V::read_from_bytes(v)).collect()))
    }

    /// Inserts or replaces one entry.
    ///
    /// # Errors
    /// A per-CPU map (`InvalidInput`); E2BIG if the map is full; any other error of the kernel.
    pub fn update(&self, key: &K, value: &V) -> Result<(), BpfError> {
        let single = self.raw.single_value();
        let updated = single.and_then(|()| self.raw.put(key.as_bytes(), value.as_bytes()));
        updated.map_err(|e| self.raw.fail("write to", e))
    }

    /// Deletes one entry; returns whether it existed.
    ///
    /// # Errors
    /// Any error of the kernel other than ENOENT.
    pub fn delete(&self, key: &K) -> Result<bool, BpfError> {
        self.raw.remove(key.as_bytes()).map_err(|e| self.raw.fail("delete from", e))
    }
}
