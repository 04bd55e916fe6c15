//! Loads the eBPF object: maps and programs in the kernel, pinned. Nothing is attached here.
//!
//! A pinned map is kept with its contents if its shape is exactly the one that the object declares
//! (aya checks less); otherwise it is replaced by an empty one. A pinned program is kept if its code
//! and its maps are the same; otherwise the new one is pinned beside it and renamed over it, so that
//! the CNI binary finds a program at any time.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, include_bytes_aligned};
use aya_obj::EbpfSectionKind;
use sluice_abi::{NodeConfig, map, node_flags, pin, program};
use sluice_bpf::{self as bpf, Map};

/// The eBPF object; empty if the agent was built without it.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));

/// The tables that `NODE_CONFIG`'s READY vouches for.
const TABLES: [&str; 4] = [map::FRONTENDS, map::SLOTS, map::BACKENDS, map::NETWORKS];

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
    /// A pinned object could not be opened or inspected.
    #[error(transparent)]
    Bpf(#[from] bpf::BpfError),
}

/// What [`load`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Pinned maps that were kept.
    pub maps_kept: usize,
    /// Maps that were created.
    pub maps_created: usize,
    /// Pinned programs that were kept.
    pub programs_kept: usize,
    /// Programs that were pinned, some of them over an older one.
    pub programs_pinned: usize,
    /// Whether programs of an earlier agent that is ready use other maps: the new ones are not
    /// ready, and replace them after the tables are written.
    pub replaces_ready: bool,
}

/// Loads and pins everything below [`pin::ROOT`].
///
/// # Errors
/// The first step that failed. Objects pinned before it stay pinned.
pub fn load() -> Result<Loaded, LoadError> {
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
    let shapes = declared_shapes()?;
    let mut replaced = false;
    for shape in &shapes {
        let kept = keep_or_unpin(shape, &maps_dir.join(&shape.name), &mut loaded)?;
        replaced |= !kept && TABLES.contains(&shape.name.as_str());
    }
    let former = if replaced { unpin_node_config(maps_dir, &mut loaded)? } else { None };

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
    for shape in &shapes {
        loader.map_pin_path(&shape.name, maps_dir.join(&shape.name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|e| LoadError::Maps(Box::new(e)))?;

    if let Some(former) = former {
        loaded.replaces_ready = former.flags & node_flags::READY != 0;
        let config = NodeConfig { flags: former.flags & !node_flags::READY, ..former };
        Map::<u32, NodeConfig>::open_pinned(maps_dir.join(map::NODE_CONFIG))?
            .update(&0, &config)?;
    }

    let pinned_maps = pinned_map_ids(&shapes)?;
    for name in program::TC.into_iter().chain(program::SOCKET) {
        let loaded_program = ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        let refused = |source| LoadError::Program { name, source: Box::new(source) };
        match loaded_program {
            Program::SchedClassifier(p) => p.load().map_err(refused)?,
            Program::CgroupSockAddr(p) => p.load().map_err(refused)?,
            other => {
                return Err(LoadError::Object(format!(
                    "program {name} has the type {:?}",
                    other.prog_type()
                )));
            }
        }
        pin_program(name, loaded_program, &pinned_maps, &mut loaded)?;
    }
    Ok(loaded)
}

/// Returns memory that loading used to the system; parsed type information is large.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes no pointers and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The shape of a map, as the object declares it or as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    name: String,
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

fn declared_shapes() -> Result<Vec<Shape>, LoadError> {
    let object = aya_obj::Object::parse(OBJECT).map_err(|e| LoadError::Object(e.to_string()))?;
    let mut shapes: Vec<Shape> = object
        .maps
        .iter()
        .filter(|(_, m)| {
            matches!(m.section_kind(), EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps)
        })
        .map(|(name, m)| Shape {
            name: name.clone(),
            map_type: m.map_type(),
            key_size: m.key_size(),
            value_size: m.value_size(),
            max_entries: m.max_entries(),
            flags: m.map_flags(),
        })
        .collect();
    shapes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shapes)
}

/// Unpins `NODE_CONFIG` and returns its row. Programs that are attached go on with their maps; the
/// new ones get a configuration of their own, which is not READY, because the tables that READY
/// vouches for are empty.
fn unpin_node_config(
    maps_dir: &Path,
    loaded: &mut Loaded,
) -> Result<Option<NodeConfig>, LoadError> {
    let path = maps_dir.join(map::NODE_CONFIG);
    let former = match Map::<u32, NodeConfig>::open_pinned(&path) {
        Ok(config) => config.lookup(&0)?,
        Err(e) if e.errno() == libc::ENOENT => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    fs::remove_file(&path).map_err(|source| LoadError::Pin { path, source })?;
    loaded.maps_kept -= 1;
    loaded.maps_created += 1;
    Ok(former)
}

/// Keeps a pinned map of the wanted shape, and unpins any other. Returns whether a map was kept.
fn keep_or_unpin(wanted: &Shape, path: &Path, loaded: &mut Loaded) -> Result<bool, LoadError> {
    let fd = match bpf::obj_get(path) {
        Ok(fd) => fd,
        Err(e) if e.errno() == libc::ENOENT => {
            loaded.maps_created += 1;
            return Ok(false);
        }
        Err(e) => return Err(e.into()),
    };
    // Another kind of object may be pinned there.
    let found = bpf::map_info(&fd).ok().map(|i| Shape {
        name: wanted.name.clone(),
        map_type: i.map_type,
        key_size: i.key_size,
        value_size: i.value_size,
        max_entries: i.max_entries,
        flags: i.flags,
    });
    if found.as_ref() == Some(wanted) {
        loaded.maps_kept += 1;
        return Ok(true);
    }
    tracing::warn!(map = %wanted.name, ?found, ?wanted, "pinned map has another shape: replaced by an empty map");
    fs::remove_file(path).map_err(|source| LoadError::Pin { path: path.to_owned(), source })?;
    loaded.maps_created += 1;
    Ok(false)
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
    match bpf::obj_get(&path) {
        Ok(fd) => {
            let pinned = bpf::prog_info(&fd);
            if pinned.is_ok_and(|pinned| same(&pinned, &fresh_info, pinned_maps)) {
                loaded.programs_kept += 1;
                return Ok(());
            }
        }
        Err(e) if e.errno() == libc::ENOENT => {}
        Err(e) => return Err(e.into()),
    }
    // bpffs refuses names with dots.
    let beside = Path::new(pin::PROGRAMS).join(format!("{name}_new"));
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    fresh.pin(&beside).map_err(|e| error(io::Error::other(e.to_string())))?;
    fs::rename(&beside, &path).map_err(error)?;
    loaded.programs_pinned += 1;
    Ok(())
}
