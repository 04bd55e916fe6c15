//! The record of a load, pinned beside maps and programs: an agent that starts again keeps what is
//! pinned without having the kernel verify the programs, which is nearly all of its start-up time.
//!
//! ```text
//! agent 6d1f3c2a9b07e845       hash of the agent, which contains the object and its loader
//! map FLOWS 812                kernel id of each pinned map
//! program from_pod 94          kernel id of each program that waits for its switch, or else is pinned
//! ```
//! Kernel ids are assigned cyclically up to 2^31 and pins do not survive a reboot, so equal ids identify
//! the same objects. If an object is missing or has another id, or the record cannot be read, the agent
//! loads the programs again.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use sluice_abi::{pin, program};
use sluice_bpf::{self as bpf, BpfError, RawMap, error_chain};

use super::migration::{MigrationError, remove_pin, waiting};
use super::shape::Shape;

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("read this program")]
    Agent(#[source] io::Error),
    #[error(transparent)]
    Pin(#[from] MigrationError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// Whether the maps and programs that are pinned are those of the last load by this agent.
pub(super) fn is_current(shapes: &[Shape]) -> bool {
    compare(shapes).unwrap_or_else(|error| {
        let error = error_chain(&error);
        tracing::warn!(%error, "record of the last load not read: the programs are loaded again");
        false
    })
}

fn compare(shapes: &[Shape]) -> Result<bool, RecordError> {
    let Some(record) = open(&Path::new(pin::ROOT).join(pin::LOADED))? else { return Ok(false) };
    let recorded = RawMap::from_any(record)?.lookup(&0u32.to_ne_bytes())?;
    Ok(recorded.is_some() && recorded == text(shapes)?.map(String::into_bytes))
}

/// Records what is pinned. Without a record, the next start takes longer.
pub(super) fn write(shapes: &[Shape]) {
    if let Err(error) = replace(shapes) {
        let error = error_chain(&error);
        tracing::warn!(%error, "load not recorded: the next start loads the programs again");
    }
}

fn replace(shapes: &[Shape]) -> Result<(), RecordError> {
    let path = Path::new(pin::ROOT).join(pin::LOADED);
    remove_pin(&path)?;
    let Some(text) = text(shapes)? else { return Ok(()) };
    let record = RawMap::from_any(bpf::create_record(pin::LOADED, text.len())?)?;
    record.update_batch(&0u32.to_ne_bytes(), text.as_bytes())?;
    Ok(bpf::obj_pin(&path, &record)?)
}

/// What is pinned; `None` if something is missing.
fn text(shapes: &[Shape]) -> Result<Option<String>, RecordError> {
    let agent = hash_of(File::open("/proc/self/exe").map_err(RecordError::Agent)?);
    let mut text = format!("agent {:016x}\n", agent.map_err(RecordError::Agent)?);
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

fn hash_of(mut file: File) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&buffer[..length]),
        }
    }
}

fn open(path: &Path) -> Result<Option<OwnedFd>, BpfError> {
    match bpf::obj_get(path) {
        Ok(object) => Ok(Some(object)),
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        Err(e) => Err(e),
    }
}
