//! Migration: from the programs and maps of another version, or of this version with other sizes,
//! to those of this agent, under traffic (docs/adr/010-migration.md).
//!
//! ```text
//! load       share maps whose description and shape are the same; create the others
//!            copy the tables, so that ids and slots are kept
//! reconcile  write the tables, then READY
//! hand over  copy pods; LOOK_BACK here, HANDED_OVER there: one write switches all hooks
//!            replace the CNI binary; copy flows without overwriting; end LOOK_BACK
//! reconcile  attach programs, remove the old pins
//! ```
//! Each step can be repeated: an agent that starts after any of them continues.

mod copy;
mod late_pods;
mod make_way;
mod pin_set;

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sluice_abi::{map, node_flags, program};
use sluice_bpf::BpfError;
use sluice_bpf::layout::{ConversionError, LayoutError};

pub use self::copy::raise_epoch;
use self::copy::{Existing, clear, copy};
pub use self::pin_set::{
    PinSet, Role, describe, id_below, program_below, publish_programs, read_record, remove_pin,
    version_dirs, waiting, write_record,
};
use crate::kernel::{Copied, HandedOver};

/// Maps that the agent compiles. Copied so that ids and slots are kept; written afresh before the
/// programs use them.
pub const TABLES: [&str; 14] = [
    map::SOURCE_RANGES,
    map::BACKENDS,
    map::SLOTS,
    map::SERVICES,
    map::FRONTENDS,
    map::NETWORKS,
    map::DEVICES,
    // Flows have the epoch at which they were judged: it goes on. Tables before the rows of pods.
    map::POLICY_EPOCH,
    map::OPEN_NAMESPACES,
    map::POLICY_PORTS,
    map::POLICY_PEERS,
    map::POLICY_NETWORKS,
    map::POLICY_CLASSES,
    map::POD_POLICY,
];

/// Maps that the CNI binary writes, or that belong to its rows.
const PODS: [&str; 3] = [map::PODS, map::LOCAL_PODS, map::POD_FLOWS];

/// Tables of flows in the order of copying: a flow that is confirmed, or closed, while they are read
/// is in a table that is read later.
const FLOWS: [&str; 5] =
    [map::FLOWS_NEW_POD, map::FLOWS_NEW_WIRE, map::FLOWS, map::FLOWS_NEW_POD, map::FLOWS_NEW_WIRE];

/// Why the state of another version could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A description is not valid.
    #[error("{dir}")]
    Layouts {
        /// Directory of the version.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: LayoutError,
    },
    /// Two layouts cannot be converted.
    #[error(
        "map {map}: its entries of {from} cannot be used by {to}; upgrade by a version in between"
    )]
    Conversion {
        /// Name of the map.
        map: String,
        /// The version that has the entries.
        from: String,
        /// The version that needs them.
        to: String,
        /// The cause.
        #[source]
        source: ConversionError,
    },
    /// A path in bpffs could not be listed, created, removed or renamed.
    #[error("pin {path}")]
    Pin {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A thread could not be created.
    #[error("start a thread that copies rows of pods")]
    Thread(#[source] io::Error),
    /// This version's programs are not ready.
    #[error("the configuration of the programs is not written")]
    NotReady,
    /// An earlier switch has not ended.
    #[error("the flows of the former maps are not copied yet")]
    FlowsNotCopied,
    /// An object could not be opened, read or written.
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

impl MigrationError {
    fn pin(path: &Path, source: io::Error) -> MigrationError {
        MigrationError::Pin { path: path.to_owned(), source }
    }
}

/// The other version whose programs handle packets, if there is one.
///
/// # Errors
/// A description is not valid, or a version cannot be read.
pub fn active_other() -> Result<Option<PinSet>, MigrationError> {
    for set in PinSet::others()? {
        if set.role()? == Role::Active {
            return Ok(Some(set));
        }
    }
    Ok(None)
}

/// Whether an earlier agent of this version has switched the hooks and not copied all flows.
///
/// # Errors
/// `NODE_CONFIG` cannot be read.
pub fn is_interrupted() -> Result<bool, MigrationError> {
    let Some(own) = PinSet::own()? else { return Ok(false) };
    Ok(own.role()? == Role::Active && is_looking_back(&own)?)
}

fn is_looking_back(set: &PinSet) -> Result<bool, MigrationError> {
    Ok(set.flags()?.unwrap_or_default() & node_flags::LOOK_BACK != 0)
}

/// Copies what the agent adopts when it starts: the tables, and the configuration of the programs,
/// which have not taken over yet. The maps were just created.
///
/// # Errors
/// Layouts cannot be converted; a map cannot be read or written.
pub fn copy_tables(from: &PinSet, to: &PinSet) -> Result<(), MigrationError> {
    for name in TABLES.into_iter().chain([map::NODE_CONFIG]) {
        let copied = copy(name, from, to, Existing::Replace)?;
        if copied.left_out > 0 {
            tracing::warn!(map = name, entries = copied.left_out, "entries do not fit, left out");
        }
    }
    to.change_flags(node_flags::HANDED_OVER, node_flags::READY | node_flags::LOOK_BACK)?;
    Ok(())
}

/// Switches all hooks to this version's programs, calls `replace_cni_binary`, and copies the flows.
///
/// # Errors
/// The programs are not ready; layouts cannot be converted; a map cannot be read or written. Can be
/// repeated.
pub fn hand_over(replace_cni_binary: impl FnOnce()) -> Result<HandedOver, MigrationError> {
    let own = PinSet::own()?.ok_or(MigrationError::NotReady)?;
    if own.role()? == Role::NotReady {
        return Err(MigrationError::NotReady);
    }
    let others = PinSet::others()?;
    let mut result = HandedOver::default();
    let started = Instant::now();
    // Flows of versions that handed over earlier are old, unless an agent ended before it had copied
    // them.
    let mut unfinished = is_looking_back(&own)?;
    let mut has_flows = Vec::new();
    for other in &others {
        let active = other.role()? == Role::Active;
        has_flows.push(active);
        if active {
            unfinished |= is_looking_back(other)?;
            late_pods::follow(other, &own)?;
            switch(other, &own)?;
            result.from = Some(other.name());
        }
    }
    publish_programs()?;
    if result.from.is_some() {
        replace_cni_binary();
    }
    sluice_bpf::wait_for_runs();
    let has_flows = others.iter().zip(has_flows).filter(|(_, active)| unfinished || *active);
    for (other, _) in has_flows {
        result.flows += copy_flows(other, &own)?;
        for name in PODS {
            copy(name, other, &own, Existing::Keep)?;
        }
    }
    own.change_flags(0, node_flags::LOOK_BACK)?;
    sluice_bpf::wait_for_runs();
    // The array keeps the programs, and with them the maps, of the other version.
    if let Some(predecessors) = own.any_map(map::PREDECESSORS)? {
        let hooks = program::TC.len() as u32;
        let keys: Vec<u8> = (0..hooks).flat_map(u32::to_ne_bytes).collect();
        predecessors.delete_batch(&keys)?;
    }
    result.took = started.elapsed();
    Ok(result)
}

/// Copies flows to the version that handles new ones: what it has is newer.
fn copy_flows(from: &PinSet, to: &PinSet) -> Result<Copied, MigrationError> {
    let mut copied = Copied::default();
    for name in FLOWS {
        copied += copy(name, from, to, Existing::Keep)?;
    }
    Ok(copied)
}

/// Makes every hook run the programs of `to`: those of `from` pass their packets on.
fn switch(from: &PinSet, to: &PinSet) -> Result<(), MigrationError> {
    if to.role()? == Role::HandedOver {
        if is_looking_back(from)? {
            // The agent of `from` was killed before it had copied the flows of `to`. With LOOK_BACK in both
            // versions, each would ask the other one about a packet without a flow.
            copy_flows(to, from)?;
            from.change_flags(0, node_flags::LOOK_BACK)?;
            sluice_bpf::wait_for_runs();
        }
        // What is left are flows of the time when `to` was active: their ports may be those of other
        // flows by now. Every program passes its packets on, so none uses these maps.
        for name in map::FLOW_TABLES {
            if let (Some(old), Some(new)) = (from.map(name)?, to.map(name)?)
                && !old.is(&new)
            {
                clear(&new)?;
            }
        }
    }
    for name in PODS {
        copy(name, from, to, Existing::Replace)?;
    }
    fill_programs(to, map::PREDECESSORS, from)?;
    fill_programs(from, map::SUCCESSORS, to)?;
    // First the programs that packets will arrive at.
    to.change_flags(node_flags::LOOK_BACK, node_flags::HANDED_OVER)?;
    from.change_flags(node_flags::HANDED_OVER, node_flags::LOOK_BACK)?;
    tracing::info!(from = %from.name(), to = %to.name(), "programs of this version have taken over");
    Ok(())
}

/// Writes the programs of one version into a program array of another.
fn fill_programs(set: &PinSet, name: &str, programs: &PinSet) -> Result<(), MigrationError> {
    let Some(array) = set.any_map(name)? else { return Ok(()) };
    for (index, program) in (0u32..).zip(programs.programs()?) {
        array.update_batch(&index.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())?;
    }
    Ok(())
}
