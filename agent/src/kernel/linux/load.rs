//! Loads the eBPF object: maps and programs in the kernel, pinned. Nothing is attached here.
//!
//! A pinned map is kept with its contents if its description and its shape are exactly those of this
//! agent (aya checks less); otherwise it is replaced, and [`migration`] takes its entries over. A
//! pinned program is kept if its code and its maps are the same; otherwise the new one is pinned
//! beside it and renamed over it, so that the CNI binary finds a program at any time. Programs are
//! not loaded at all if everything is pinned as the last load left it ([`record`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use sluice_abi::{map, pin, program};
use sluice_bpf::layout::{self, Layouts};
use sluice_bpf::{self as bpf};

use super::migration::{self, MigrationError, PinSet, describe, id_below, remove_pin, waiting};
use super::parallel::in_parallel;
use super::record;
use super::shape::{Shape, declared_shapes, pinned_shape};
use super::sizes::Sizes;
use crate::signals::Stop;

/// The eBPF object; empty if the agent was built without it.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));

/// Helper number of `bpf_set_retval`.
const BPF_FUNC_SET_RETVAL: aya_obj::generated::bpf_func_id =
    aya_obj::generated::bpf_func_id::BPF_FUNC_set_retval;

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The agent was built without the eBPF object.
    #[error("this binary contains no eBPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// The object cannot be parsed.
    #[error("eBPF object: {0}")]
    Object(String),
    /// Creating or reusing maps failed.
    #[error("create maps")]
    Maps(#[source] Box<aya::EbpfError>),
    /// The agent is to stop. What is pinned stays as it was, apart from maps that no program uses yet.
    #[error("the agent is stopping")]
    Stopping,
    /// The kernel refused a program.
    #[error("load program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// The cause, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks a program.
    #[error("the eBPF object has no program {0}")]
    NoProgram(&'static str),
    /// A path in bpffs could not be created, removed or renamed.
    #[error("pin {path}")]
    Pin {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The state of another version cannot be taken over.
    #[error("take over from another version")]
    Migration(#[from] MigrationError),
    /// A pinned object could not be opened or inspected.
    #[error(transparent)]
    Bpf(#[from] bpf::BpfError),
}

/// What [`load`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Pinned maps that were kept.
    pub maps_kept: usize,
    /// Maps of another version that this one uses too.
    pub maps_shared: usize,
    /// Maps that were created.
    pub maps_created: usize,
    /// Pinned programs that were kept.
    pub programs_kept: usize,
    /// Programs that were pinned, some of them over an older one.
    pub programs_pinned: usize,
    /// Programs that the kernel verified; none if everything is pinned as the last load left it.
    pub programs_verified: usize,
    /// The version whose programs are active, and from which this one has to take over after the
    /// tables are written.
    pub takes_over_from: Option<String>,
}

/// Loads and pins everything below [`pin::ROOT`]. A map whose capacity is another one is migrated. Verification
/// takes seconds; it ends after the present programs when the agent is to stop.
///
/// # Errors
/// The first step that failed. Objects pinned before it stay pinned.
pub fn load(sizes: &Sizes, stop: &Stop) -> Result<Loaded, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    let maps_dir = Path::new(pin::MAPS);
    for dir in [pin::MAPS, pin::PROGRAMS] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| LoadError::Pin { path: dir.into(), source })?;
    }
    let mut loaded = Loaded::default();
    let layouts = layout::current();
    let own = own_pins(&layouts)?;
    let entries = sizes.resolve(own.iter().chain(&migration::active_other()?))?;
    let mut shapes = declared_shapes(OBJECT).map_err(|e| LoadError::Object(e.to_string()))?;
    for shape in &mut shapes {
        if let Some(entries) = entries.get(shape.name.as_str()) {
            shape.max_entries = *entries;
        }
    }
    let shapes = shapes;
    if let Some(own) = &own {
        replace_changed(own, &shapes, &layouts)?;
    }
    let source = migration::active_other()?;
    if let Some(source) = &source {
        share(&shapes, &layouts, source, &mut loaded)?;
    }
    let is_pinned = |shape: &&Shape| maps_dir.join(&shape.name).exists();
    loaded.maps_kept = shapes.iter().filter(is_pinned).count() - loaded.maps_shared;
    loaded.maps_created = shapes.len() - loaded.maps_kept - loaded.maps_shared;

    let object = if record::is_current(&shapes) { None } else { Some(create_maps(&shapes)?) };
    describe(&layouts)?;
    if let Some(source) = &source {
        let own = PinSet::own()?.ok_or(MigrationError::NotReady)?;
        // Not since an earlier start, nor by an earlier switch.
        if own.flags()? == Some(0) {
            migration::copy_tables(source, &own)?;
        }
        // The agent judges flows again: the tables of this version may be older than their verdicts.
        migration::raise_epoch(source, &own)?;
        loaded.takes_over_from = Some(source.name());
    }
    match object {
        None => loaded.programs_kept = program::all().count(),
        Some(mut object) => {
            pin_programs(&mut object, &shapes, stop, &mut loaded)?;
            record::write(&shapes);
        }
    }
    if source.is_none() {
        migration::publish_programs()?;
        if migration::is_interrupted()? {
            migration::hand_over(|| {})?;
        }
    }
    Ok(loaded)
}

/// Loads all programs, and pins those that are not pinned yet.
fn pin_programs(
    object: &mut Ebpf,
    shapes: &[Shape],
    stop: &Stop,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let pinned_maps = pinned_map_ids(shapes)?;
    let mut programs = Vec::new();
    let mut found: BTreeMap<String, &mut Program> =
        object.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    for name in program::all() {
        programs.push((name, found.remove(name).ok_or(LoadError::NoProgram(name))?));
        // What is not a pin can neither be opened nor replaced: an error before the programs are verified.
        bpf::obj_find(&Path::new(pin::PROGRAMS).join(waiting(name)))?;
    }
    tracing::info!(programs = programs.len(), "programs are being verified");
    in_parallel(programs.iter_mut(), stop, |(name, program)| load_program(name, program))?;
    loaded.programs_verified = programs.len();
    for (name, program) in programs {
        pin_program(name, program, &pinned_maps, loaded)?;
    }
    Ok(())
}

fn load_program(name: &'static str, program: &mut Program) -> Result<(), LoadError> {
    let refused = |source| LoadError::Program { name, source: Box::new(source) };
    match program {
        Program::SchedClassifier(p) => p.load().map_err(refused),
        Program::CgroupSockAddr(p) => p.load().map_err(refused),
        Program::CgroupSock(p) => p.load().map_err(refused),
        Program::Xdp(p) => p.load().map_err(refused),
        other => {
            let kind = other.prog_type();
            Err(LoadError::Object(format!("program {name} has the type {kind:?}")))
        }
    }
}

/// Creates the maps that are not pinned, and pins them.
fn create_maps(shapes: &[Shape]) -> Result<Ebpf, LoadError> {
    let have_set_retval = u8::from(
        aya::sys::is_helper_supported(
            aya::programs::ProgramType::CgroupSockAddr,
            BPF_FUNC_SET_RETVAL,
        )
        .unwrap_or(false),
    );
    let mut loader = EbpfLoader::new();
    // The programs have no relocations against kernel types; without BTF, aya does not allocate
    // megabytes for it.
    loader.btf(None).override_global("HAVE_SET_RETVAL", &have_set_retval, false);
    for shape in shapes {
        loader.map_pin_path(&shape.name, Path::new(pin::MAPS).join(&shape.name));
        loader.map_max_entries(&shape.name, shape.max_entries);
    }
    loader.load(OBJECT).map_err(|e| LoadError::Maps(Box::new(e)))
}

/// The pins of this version, if an agent has loaded it before.
fn own_pins(layouts: &Layouts) -> Result<Option<PinSet>, LoadError> {
    let is_pinned = Path::new(pin::MAPS).join(map::NODE_CONFIG).exists();
    if is_pinned && !Path::new(pin::ROOT).join(pin::LAYOUTS).exists() {
        // The layouts of a version do not change; an agent that ended early has not pinned them.
        describe(layouts)?;
    }
    let own = PinSet::own()?;
    if let Some(own) = &own {
        own.undo_make_way()?;
    }
    Ok(own)
}

/// Unpins maps whose shape or description is not that of this agent.
fn replace_changed(own: &PinSet, shapes: &[Shape], layouts: &Layouts) -> Result<(), LoadError> {
    let mut changed = Vec::new();
    for wanted in shapes {
        let path = Path::new(pin::MAPS).join(&wanted.name);
        if !path.exists() {
            continue;
        }
        let found = pinned_shape(&wanted.name, &path);
        let name = wanted.name.as_str();
        if found.as_ref() != Some(wanted) || own.layout(name) != layouts.0.get(name) {
            tracing::info!(map = %name, ?found, ?wanted, "pinned map has another shape, replaced");
            changed.push(name);
        }
    }
    if changed.is_empty() { Ok(()) } else { Ok(own.make_way(&changed)?) }
}

/// Pins maps of another version whose description and shape are those of this one, so that the
/// programs of both use the same map. The tables of Services are shared together or not at all, as are those of
/// policies.
fn share(
    shapes: &[Shape],
    layouts: &Layouts,
    source: &PinSet,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let path = |wanted: &Shape| Path::new(pin::MAPS).join(&wanted.name);
    let theirs = |wanted: &Shape| source.dir().join("maps").join(&wanted.name);
    let can_be_shared = |wanted: &Shape| {
        let name = wanted.name.as_str();
        let described = layouts.0.get(name).filter(|_| name != map::NODE_CONFIG);
        described.is_some()
            && source.layout(name) == described
            && pinned_shape(name, &theirs(wanted)).as_ref() == Some(wanted)
    };
    let is_shared = |wanted: &Shape| -> Result<bool, LoadError> {
        let own = id_below(Path::new(pin::ROOT), &wanted.name)?;
        Ok(own.is_some() && own == id_below(source.dir(), &wanted.name)?)
    };
    let mut apart: Vec<&str> = Vec::new();
    for group in [&map::SERVICE_TABLES[..], &map::POLICY_TABLES] {
        let mut together = true;
        for wanted in shapes.iter().filter(|shape| group.contains(&shape.name.as_str())) {
            together &= can_be_shared(wanted) && (!path(wanted).exists() || is_shared(wanted)?);
        }
        if !together {
            apart.extend(group);
        }
    }
    for wanted in shapes {
        if apart.contains(&wanted.name.as_str()) {
            if is_shared(wanted)? {
                tracing::info!(map = %wanted.name, "replaced with the tables that it belongs to");
                remove_pin(&path(wanted))?;
            }
        } else if can_be_shared(wanted) && !path(wanted).exists() {
            bpf::obj_pin(&path(wanted), bpf::obj_get(&theirs(wanted))?)?;
            loaded.maps_shared += 1;
        }
    }
    Ok(())
}

fn pinned_map_ids(shapes: &[Shape]) -> Result<Vec<u32>, LoadError> {
    let mut ids = Vec::new();
    for shape in shapes {
        let fd = bpf::obj_get(&Path::new(pin::MAPS).join(&shape.name))?;
        ids.push(bpf::map_info(&fd)?.id);
    }
    Ok(ids)
}

/// Whether two programs have the same code and use the same pinned maps. Constants are in a map
/// that is created with every load; they depend on the kernel only, and pins end with the kernel.
fn same(a: &bpf::ProgInfo, b: &bpf::ProgInfo, pinned_maps: &[u32]) -> bool {
    let pinned = |p: &bpf::ProgInfo| {
        let mut ids: Vec<u32> =
            p.map_ids.iter().copied().filter(|id| pinned_maps.contains(id)).collect();
        ids.sort_unstable();
        (ids, p.map_ids.len())
    };
    a.tag == b.tag && a.prog_type == b.prog_type && pinned(a) == pinned(b)
}

fn pin_program(
    name: &'static str,
    fresh: &mut Program,
    pinned_maps: &[u32],
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let path = Path::new(pin::PROGRAMS).join(name);
    let error = |source| LoadError::Pin { path: path.clone(), source };
    let fresh_fd =
        fresh.fd().map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
    let fresh_info = bpf::prog_info(fresh_fd)?;
    let beside = path.with_file_name(waiting(name));
    remove_pin(&beside)?;
    let pinned = bpf::obj_find(&path)?.and_then(|pinned| bpf::prog_info(&pinned).ok());
    if pinned.is_some_and(|pinned| same(&pinned, &fresh_info, pinned_maps)) {
        loaded.programs_kept += 1;
        return Ok(());
    }
    // It replaces the pinned one when this version takes over.
    fresh.pin(&beside).map_err(|e| error(io::Error::other(e.to_string())))?;
    loaded.programs_pinned += 1;
    Ok(())
}
