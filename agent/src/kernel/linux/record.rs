//! The record of a load, pinned beside maps and programs: an agent that starts again keeps what is
//! pinned without having the kernel verify the programs, which is nearly all of its start-up time.
//!
//! ```text
//! object 6d1f3c2a9b07e845      hash of the eBPF object
//! map FLOWS 812                kernel id of each pinned map
//! program from_pod 94          kernel id of each program that waits for its switch or is pinned
//! ```
//! The kernel gives ids out in a cycle of 2^31, and pins end with the kernel: equal ids are the same
//! objects. Whatever else is pinned under one of the names, or missing, makes the agent load again.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use sluice_abi::{pin, program};
use sluice_bpf::{self as bpf, BpfError, RawMap};

use super::load::{LoadError, OBJECT};
use super::migration::{remove_pin, waiting};
use super::shape::Shape;

/// Whether the maps and programs that are pinned are those of the last load of this object.
///
/// # Errors
/// A pin cannot be opened.
pub(super) fn is_current(shapes: &[Shape]) -> Result<bool, LoadError> {
    let Some(record) = open(&Path::new(pin::ROOT).join(pin::LOADED))? else { return Ok(false) };
    let recorded = RawMap::from_any(record)?.lookup(&0u32.to_ne_bytes())?;
    Ok(recorded.is_some() && recorded == text(shapes)?.map(String::into_bytes))
}

/// Records what is pinned.
///
/// # Errors
/// A pin cannot be opened or written.
pub(super) fn write(shapes: &[Shape]) -> Result<(), LoadError> {
    let path = Path::new(pin::ROOT).join(pin::LOADED);
    remove_pin(&path)?;
    let Some(text) = text(shapes)? else { return Ok(()) };
    let record = RawMap::from_any(bpf::create_record(pin::LOADED, text.len())?)?;
    record.update_batch(&0u32.to_ne_bytes(), text.as_bytes())?;
    Ok(bpf::obj_pin(&path, &record)?)
}

/// What is pinned; `None` if something is missing.
fn text(shapes: &[Shape]) -> Result<Option<String>, LoadError> {
    let mut hasher = DefaultHasher::new();
    hasher.write(OBJECT);
    let mut text = format!("object {:016x}\n", hasher.finish());
    for Shape { name, .. } in shapes {
        let Some(map) = open(&Path::new(pin::MAPS).join(name))? else { return Ok(None) };
        let _ = writeln!(text, "map {name} {}", bpf::map_info(&map)?.id);
    }
    let programs = Path::new(pin::PROGRAMS);
    for name in program::all() {
        let found = match open(&programs.join(waiting(name)))? {
            None => open(&programs.join(name))?,
            found => found,
        };
        let Some(program) = found else { return Ok(None) };
        let _ = writeln!(text, "program {name} {}", bpf::prog_info(&program)?.id);
    }
    Ok(Some(text))
}

fn open(path: &Path) -> Result<Option<OwnedFd>, BpfError> {
    match bpf::obj_get(path) {
        Ok(object) => Ok(Some(object)),
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        Err(e) => Err(e),
    }
}
