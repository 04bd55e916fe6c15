//! Maps as the kernel holds them: their memory, and a way to forbid writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use sluice_abi::{map, pin};
use sluice_bpf::{map_info, obj_get, prog_info};

use super::map_path;
use crate::Node;

const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_MAP_FREEZE: libc::c_int = 22;

/// Forbids writes to a pinned map from user space, for the rest of its life
/// (`BPF_MAP_FREEZE`).
pub fn freeze(node: &Node, name: &str) {
    node.namespaces.run(|| {
        let map = obj_get(&map_path(name)).unwrap();
        let attributes = u32::try_from(map.as_raw_fd()).unwrap();
        // SAFETY: the attributes of this command are one u32, which outlives the call.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_FREEZE, &raw const attributes, size_of::<u32>())
        };
        Errno::result(result).unwrap_or_else(|e| panic!("freeze {name}: {e}"));
    });
}

/// A map and the memory that the kernel accounts to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Name, which the kernel truncates to 15 bytes.
    pub name: String,
    /// Number of entries that it can have.
    pub entries: u32,
    /// Bytes.
    pub bytes: u64,
}

/// The memory of all maps that are pinned or that a pinned program uses, the largest first.
pub fn memory(node: &Node) -> Vec<Memory> {
    node.namespaces.run(|| {
        let mut maps: BTreeMap<u32, OwnedFd> = BTreeMap::new();
        for name in map::ALL {
            let fd = obj_get(&map_path(name)).unwrap();
            maps.insert(map_info(&fd).unwrap().id, fd);
        }
        for program in fs::read_dir(Path::new(pin::PROGRAMS)).unwrap().flatten() {
            let ids = prog_info(obj_get(&program.path()).unwrap()).unwrap().map_ids;
            for id in ids {
                maps.entry(id).or_insert_with(|| map_by_id(id));
            }
        }
        let memory = |fd: OwnedFd| {
            let info = map_info(&fd).unwrap();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
            let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            let bytes = bytes.and_then(|bytes| bytes.trim().parse().ok()).expect(&text);
            Memory { name: info.name, entries: info.max_entries, bytes }
        };
        let mut memory: Vec<Memory> = maps.into_values().map(memory).collect();
        memory.sort_by_key(|map| std::cmp::Reverse(map.bytes));
        memory
    })
}

fn map_by_id(id: u32) -> OwnedFd {
    // Id, an unused word, flags.
    let attributes = [id, 0, 0];
    // SAFETY: the attributes of this command are three u32, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_GET_FD_BY_ID,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    let fd = Errno::result(result).unwrap_or_else(|e| panic!("map {id}: {e}"));
    // SAFETY: the call returned a descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}
