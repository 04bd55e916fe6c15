//! Pinned objects, objects by id, and what the kernel reports about a map or a program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::sys::{BpfError, Cmd, IdAttr, InfoAttr, MapCreateAttr, ObjAttr, bpf, unless_absent};

/// Opens the map, program or link that is pinned at `path`.
///
/// # Errors
/// ENOENT if nothing is pinned there, EINVAL if the path is not on a bpffs.
pub fn obj_get(path: &Path) -> Result<OwnedFd, BpfError> {
    let fail = |e| BpfError::new(format!("open pinned object {}", path.display()), e);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| fail(e.into()))?;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, ..Default::default() };
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let fd = unsafe { bpf(Cmd::ObjGet, &mut attr) }.map_err(fail)?;
    Ok(own(fd))
}

/// Pins an open map or program at `path`, whose directory exists on a bpffs.
///
/// # Errors
/// EEXIST if something is pinned there, EPERM if the path is not on a bpffs.
pub fn obj_pin(path: &Path, object: impl AsFd) -> Result<(), BpfError> {
    let fail = |e| BpfError::new(format!("pin {}", path.display()), e);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| fail(e.into()))?;
    let bpf_fd = object.as_fd().as_raw_fd() as u32;
    let mut attr = ObjAttr { pathname: name.as_ptr() as u64, bpf_fd, ..Default::default() };
    // SAFETY: `name` is NUL-terminated and outlives the call.
    unsafe { bpf(Cmd::ObjPin, &mut attr) }.map(|_| ()).map_err(fail)
}

/// Opens the object that is pinned at a path, if there is one.
///
/// # Errors
/// Those of [`obj_get`], except ENOENT.
pub fn obj_find(path: &Path) -> Result<Option<OwnedFd>, BpfError> {
    unless_absent(obj_get(path))
}

/// Number of `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;

/// Creates an array with one value of `value_size` bytes, which programs do not use.
///
/// # Errors
/// EPERM without CAP_BPF; ENOMEM.
pub fn create_record(name: &str, value_size: usize) -> Result<OwnedFd, BpfError> {
    let mut map_name = [0; 16];
    for (to, from) in map_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let mut attr = MapCreateAttr {
        map_type: ARRAY,
        key_size: 4,
        value_size: value_size as u32,
        max_entries: 1,
        map_name,
        ..Default::default()
    };
    // SAFETY: the attribute holds no addresses.
    let fd = unsafe { bpf(Cmd::MapCreate, &mut attr) }
        .map_err(|e| BpfError::new(format!("create map {name}"), e))?;
    Ok(own(fd))
}

/// Opens the program with this id.
///
/// # Errors
/// ENOENT if there is none, EPERM without CAP_SYS_ADMIN.
pub fn prog_by_id(id: u32) -> Result<OwnedFd, BpfError> {
    by_id(Cmd::ProgFdById, id, "program")
}

/// Opens the map with this id.
///
/// # Errors
/// ENOENT if there is none, EPERM without CAP_SYS_ADMIN.
pub fn map_by_id(id: u32) -> Result<OwnedFd, BpfError> {
    by_id(Cmd::MapFdById, id, "map")
}

fn by_id(cmd: Cmd, id: u32, kind: &str) -> Result<OwnedFd, BpfError> {
    let mut attr = IdAttr { id, ..Default::default() };
    // SAFETY: the attribute holds no addresses.
    let fd = unsafe { bpf(cmd, &mut attr) }
        .map_err(|e| BpfError::new(format!("open {kind} with id {id}"), e))?;
    Ok(own(fd))
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: bpf(2) returned this descriptor to this call alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// What the kernel reports about a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Number of `enum bpf_map_type`.
    pub map_type: u32,
    /// Kernel-wide id.
    pub id: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes (of one CPU's value in per-CPU maps).
    pub value_size: u32,
    /// Capacity in entries.
    pub max_entries: u32,
    /// `BPF_F_*` flags given at creation.
    pub flags: u32,
    /// Name, truncated to 15 bytes by the kernel.
    pub name: String,
}

impl MapInfo {
    /// Rejects a map whose keys or values differ in size from the types used for them.
    pub(crate) fn check_sizes(&self, key: usize, value: usize) -> Result<(), BpfError> {
        if self.key_size as usize == key && self.value_size as usize == value {
            return Ok(());
        }
        let operation = format!(
            "map {} has {}-byte keys and {}-byte values, expected {key} and {value}",
            self.name, self.key_size, self.value_size
        );
        Err(BpfError::new(operation, io::Error::from(io::ErrorKind::InvalidData)))
    }

    /// Whether the map holds one value per CPU: PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH,
    /// PERCPU_CGROUP_STORAGE.
    pub fn is_per_cpu(&self) -> bool {
        matches!(self.map_type, 5 | 6 | 10 | 21)
    }
}

/// What the kernel reports about a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    /// Number of `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Kernel-wide id.
    pub id: u32,
    /// Hash of the instructions: equal code has equal tags.
    pub tag: [u8; 8],
    /// Name, truncated to 15 bytes by the kernel.
    pub name: String,
    /// Ids of the maps it uses.
    pub map_ids: Vec<u32>,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct RawMapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct RawProgInfo {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_insns: u64,
    xlated_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

fn raw_info<T: FromBytes + IntoBytes>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` is writable for the length given; the pointer in it (`map_ids`) is zero or
    // points to a live buffer of `nr_map_ids` words.
    unsafe { bpf(Cmd::InfoByFd, &mut attr) }.map(|_| ())
}

/// Reads what the kernel reports about a map.
///
/// # Errors
/// EINVAL if the descriptor is not a map.
pub fn map_info(fd: impl AsFd) -> Result<MapInfo, BpfError> {
    let mut raw = RawMapInfo::new_zeroed();
    raw_info(fd.as_fd(), &mut raw).map_err(|e| BpfError::new("read information about a map", e))?;
    Ok(MapInfo {
        map_type: raw.map_type,
        id: raw.id,
        key_size: raw.key_size,
        value_size: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.flags,
        name: name(&raw.name),
    })
}

/// Reads what the kernel reports about a program.
///
/// # Errors
/// EINVAL if the descriptor is not a program.
pub fn prog_info(fd: impl AsFd) -> Result<ProgInfo, BpfError> {
    let fail = |e| BpfError::new("read information about a program", e);
    // The kernel's limit of maps per program (MAX_USED_MAPS).
    let mut ids = [0u32; 64];
    let mut raw = RawProgInfo::new_zeroed();
    raw.nr_map_ids = ids.len() as u32;
    raw.map_ids = ids.as_mut_ptr() as u64;
    raw_info(fd.as_fd(), &mut raw).map_err(fail)?;
    let known = (raw.nr_map_ids as usize).min(ids.len());
    Ok(ProgInfo {
        prog_type: raw.prog_type,
        id: raw.id,
        tag: raw.tag,
        name: name(&raw.name),
        map_ids: ids[..known].to_vec(),
    })
}

fn name(raw: &[u8; 16]) -> String {
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end]).into_owned()
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
        assert!(info(1).check_sizes(16, 16).is_ok());
        for (key, value) in [(4, 16), (16, 4), (4, 4)] {
            let error = info(1).check_sizes(key, value).map_err(|e| e.to_string());
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

    #[test]
    fn names_end_at_the_first_nul() {
        assert_eq!(name(b"from_pod\0\0\0\0\0\0\0\0"), "from_pod");
        assert_eq!(name(b"a\0b\0\0\0\0\0\0\0\0\0\0\0\0\0"), "a");
        assert_eq!(name(b"sixteen_letters_"), "sixteen_letters_");
        assert_eq!(name(&[0; 16]), "");
    }
}
