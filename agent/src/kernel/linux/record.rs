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
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sluice_abi::{pin, program};
use sluice_bpf::{self as bpf, BpfError, error_chain};

use super::migration::{
    MigrationError, id_below, program_below, read_record, remove_pin, write_record,
};
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
    let Some(recorded) = read_record(&path())? else { return Ok(false) };
    Ok(text(shapes)?.is_some_and(|text| text.into_bytes() == recorded))
}

/// Records what is pinned. Without a record, the next start takes longer.
pub(super) fn write(shapes: &[Shape]) {
    if let Err(error) = replace(shapes) {
        let error = error_chain(&error);
        tracing::warn!(%error, "load not recorded: the next start loads the programs again");
    }
}

fn replace(shapes: &[Shape]) -> Result<(), RecordError> {
    match text(shapes)? {
        Some(text) => write_record(&path(), &text)?,
        None => remove_pin(&path())?,
    }
    Ok(())
}

fn path() -> PathBuf {
    Path::new(pin::ROOT).join(pin::LOADED)
}

/// What is pinned; `None` if something is missing.
fn text(shapes: &[Shape]) -> Result<Option<String>, RecordError> {
    let root = Path::new(pin::ROOT);
    let mut text = format!("agent {:016x}\n", hash_of_agent().map_err(RecordError::Agent)?);
    for Shape { name, .. } in shapes {
        let Some(id) = id_below(root, name)? else { return Ok(None) };
        let _ = writeln!(text, "map {name} {id}");
    }
    for name in program::all() {
        let Some(program) = program_below(root, name)? else { return Ok(None) };
        let _ = writeln!(text, "program {name} {}", bpf::prog_info(&program)?.id);
    }
    Ok(Some(text))
}

/// Hash of this program, which is read once.
fn hash_of_agent() -> io::Result<u64> {
    static HASH: OnceLock<u64> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(*hash);
    }
    let mut file = File::open("/proc/self/exe")?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(*HASH.get_or_init(|| hasher.finish())),
            length => hasher.write(&buffer[..length]),
        }
    }
}
