//! Typed maps: single entries and walks; `batch` has the rest.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::object::{MapInfo, map_info, obj_get};
use super::sys::{BpfError, Cmd, ElemAttr, bpf};

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

    pub(super) fn fail(&self, verb: &str, e: io::Error) -> BpfError {
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

    /// Refuses per-CPU maps: the kernel moves one value per CPU and would run past ours.
    pub(super) fn single_value(&self) -> io::Result<()> {
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
