//! The pins of one version: maps with their description, and programs.
//!
//! ```text
//! v4          this version                 maps/ programs/ layouts
//! v5          another version              the same
//! v4-1, ...   this version, before a map changed its size
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sluice_abi::{map, node_flags, pin, program};
use sluice_bpf::layout::{FieldKind, Layouts, MapLayout};
use sluice_bpf::{self as bpf, BpfError, RawMap};

use super::MigrationError;

/// The pins of a version.
#[derive(Debug)]
pub struct PinSet {
    dir: PathBuf,
    layouts: Layouts,
}

/// A map with its description.
#[derive(Debug)]
pub struct DescribedMap {
    /// The map.
    pub map: RawMap,
    /// Its description.
    pub layout: MapLayout,
}

impl DescribedMap {
    /// Sizes of keys and values.
    pub fn sizes(&self) -> (usize, usize) {
        (self.map.info().key_size as usize, self.map.info().value_size as usize)
    }

    /// Whether both are the same map.
    pub fn is(&self, other: &DescribedMap) -> bool {
        self.map.info().id == other.map.info().id
    }
}

/// Whether pins that are set aside have their description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Description {
    /// They are a version of their own.
    Copied,
    /// They are kept, and nothing is copied from them.
    Omitted,
}

/// What the programs of a version do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing: their tables were never written.
    NotReady,
    /// They handle the packets of their hooks.
    Active,
    /// They pass every packet to another version.
    HandedOver,
}

impl PinSet {
    /// The pins of this version.
    ///
    /// # Errors
    /// The description is not valid.
    pub fn own() -> Result<Option<PinSet>, MigrationError> {
        PinSet::open(Path::new(pin::ROOT))
    }

    /// The pins of all other versions that describe their maps.
    ///
    /// # Errors
    /// The directory cannot be listed, or a description is not valid.
    pub fn others() -> Result<Vec<PinSet>, MigrationError> {
        let own = Path::new(pin::ROOT);
        let base = own.parent().unwrap_or(own);
        let mut sets = Vec::new();
        for dir in version_dirs(base).map_err(|source| MigrationError::pin(base, source))? {
            if dir != own {
                sets.extend(PinSet::open(&dir)?);
            }
        }
        Ok(sets)
    }

    fn open(dir: &Path) -> Result<Option<PinSet>, MigrationError> {
        let Some(text) = read_record(&dir.join(pin::LAYOUTS))? else { return Ok(None) };
        let layouts = Layouts::parse(&text)
            .map_err(|source| MigrationError::Layouts { dir: dir.to_owned(), source })?;
        Ok(Some(PinSet { dir: dir.to_owned(), layouts }))
    }

    /// Name of the version.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Directory of the pins.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The description of a map.
    pub fn layout(&self, name: &str) -> Option<&MapLayout> {
        self.layouts.0.get(name)
    }

    /// A described map that is pinned.
    ///
    /// # Errors
    /// The pin cannot be opened.
    pub fn map(&self, name: &str) -> Result<Option<DescribedMap>, BpfError> {
        let Some(layout) = self.layout(name) else { return Ok(None) };
        let map = self.any_map(name)?;
        Ok(map.map(|map| DescribedMap { map, layout: layout.clone() }))
    }

    /// A map that is pinned.
    ///
    /// # Errors
    /// The pin cannot be opened.
    pub fn any_map(&self, name: &str) -> Result<Option<RawMap>, BpfError> {
        map_below(&self.dir, name)
    }

    /// What the version's programs do.
    ///
    /// # Errors
    /// `NODE_CONFIG` cannot be read.
    pub fn role(&self) -> Result<Role, BpfError> {
        let Some(flags) = self.flags()? else { return Ok(Role::NotReady) };
        Ok(if flags & node_flags::READY == 0 {
            Role::NotReady
        } else if flags & node_flags::HANDED_OVER == 0 {
            Role::Active
        } else {
            Role::HandedOver
        })
    }

    /// Bits of [`node_flags`].
    ///
    /// # Errors
    /// `NODE_CONFIG` cannot be read.
    pub fn flags(&self) -> Result<Option<u32>, BpfError> {
        let Some((config, at)) = self.flags_field()? else { return Ok(None) };
        let row = config.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let bytes = row.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        Ok(bytes.map(u32::from_ne_bytes))
    }

    /// Sets and clears bits of [`node_flags`].
    ///
    /// # Errors
    /// `NODE_CONFIG` cannot be read or written.
    pub fn change_flags(&self, set: u32, clear: u32) -> Result<(), BpfError> {
        let Some((config, at)) = self.flags_field()? else { return Ok(()) };
        let key = 0u32.to_ne_bytes();
        let mut row = config.lookup(&key)?.unwrap_or_default();
        if let Some(bytes) = row.get_mut(at..at + 4) {
            let old = u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
            bytes.copy_from_slice(&((old & !clear) | set).to_ne_bytes());
            config.update_batch(&key, &row)?;
        }
        Ok(())
    }

    /// `NODE_CONFIG` and the offset of its flags.
    fn flags_field(&self) -> Result<Option<(RawMap, usize)>, BpfError> {
        let Some(DescribedMap { map, layout }) = self.map(map::NODE_CONFIG)? else {
            return Ok(None);
        };
        let is_flags = |f: &&sluice_bpf::layout::Field| {
            f.path == "flags" && f.size == 4 && f.kind == FieldKind::Integer
        };
        Ok(layout.value.iter().find(is_flags).map(|field| (map, field.offset)))
    }

    /// The tc programs, by index of their hooks: those that wait to replace the pinned ones, or the
    /// pinned ones.
    ///
    /// # Errors
    /// A program is not pinned.
    pub fn programs(&self) -> Result<Vec<OwnedFd>, BpfError> {
        let open = |name: &str| match program_below(&self.dir, name)? {
            Some(program) => Ok(program),
            // The error names the pin.
            None => bpf::obj_get(&self.dir.join("programs").join(name)),
        };
        program::TC.into_iter().map(open).collect()
    }

    /// Pins everything a second time, in a directory of its own: the version goes on while its pins
    /// are replaced. Without the description, the copy only keeps programs and maps, and is not a
    /// version that has flows.
    ///
    /// # Errors
    /// A pin cannot be opened or written.
    pub fn set_aside(&self, description: Description) -> Result<PathBuf, MigrationError> {
        let aside = (1..)
            .map(|n| PathBuf::from(format!("{}-{n}", self.dir.display())))
            .find(|dir| !dir.exists())
            .unwrap_or_default();
        for folder in ["maps", "programs"] {
            let (from, to) = (self.dir.join(folder), aside.join(folder));
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&to)
                .map_err(|source| MigrationError::pin(&to, source))?;
            for entry in fs::read_dir(&from).map_err(|e| MigrationError::pin(&from, e))? {
                let entry = entry.map_err(|e| MigrationError::pin(&from, e))?;
                bpf::obj_pin(&to.join(entry.file_name()), bpf::obj_get(&entry.path())?)?;
            }
        }
        // The description comes last: without it, the directory is not a version.
        if description == Description::Copied {
            bpf::obj_pin(&aside.join(pin::LAYOUTS), bpf::obj_get(&self.dir.join(pin::LAYOUTS))?)?;
        }
        Ok(aside)
    }
}

/// A map that is pinned below the directory of a version.
///
/// # Errors
/// The pin cannot be opened.
pub(super) fn map_below(dir: &Path, name: &str) -> Result<Option<RawMap>, BpfError> {
    bpf::obj_find(&dir.join("maps").join(name))?.map(RawMap::from_any).transpose()
}

/// Kernel id of a map that is pinned below the directory of a version.
///
/// # Errors
/// The pin cannot be opened.
pub fn id_below(dir: &Path, name: &str) -> Result<Option<u32>, BpfError> {
    Ok(map_below(dir, name)?.map(|map| map.info().id))
}

/// A program below the directory of a version: the one that waits to replace the pinned one, or else
/// the pinned one.
///
/// # Errors
/// A pin cannot be opened.
pub fn program_below(dir: &Path, name: &str) -> Result<Option<OwnedFd>, BpfError> {
    let programs = dir.join("programs");
    match bpf::obj_find(&programs.join(waiting(name)))? {
        None => bpf::obj_find(&programs.join(name)),
        found => Ok(found),
    }
}

/// The text of a pinned record, if there is one.
///
/// # Errors
/// The pin cannot be opened, or is not a record.
pub fn read_record(path: &Path) -> Result<Option<Vec<u8>>, BpfError> {
    let Some(record) = bpf::obj_find(path)? else { return Ok(None) };
    Ok(Some(RawMap::from_any(record)?.lookup(&0u32.to_ne_bytes())?.unwrap_or_default()))
}

/// Pins a record with this text in place of the present one.
///
/// # Errors
/// It cannot be created or pinned.
pub fn write_record(path: &Path, text: &str) -> Result<(), MigrationError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let record = RawMap::from_any(bpf::create_record(&name, text.len())?)?;
    record.update_batch(&0u32.to_ne_bytes(), text.as_bytes())?;
    remove_pin(path)?;
    Ok(bpf::obj_pin(path, &record)?)
}

/// Pins the description of this version's maps, unless the same is pinned.
///
/// # Errors
/// It cannot be pinned.
pub fn describe(layouts: &Layouts) -> Result<(), MigrationError> {
    if PinSet::own().ok().flatten().is_some_and(|own| own.layouts == *layouts) {
        return Ok(());
    }
    write_record(&Path::new(pin::ROOT).join(pin::LAYOUTS), &layouts.to_string())
}

/// Name of the pin of a program that waits until its version takes over.
pub fn waiting(program: &str) -> String {
    // bpffs refuses names with dots.
    format!("{program}_new")
}

/// Replaces the pinned programs by those that wait.
///
/// # Errors
/// A pin cannot be renamed.
pub fn publish_programs() -> Result<usize, MigrationError> {
    let mut published = 0;
    for name in program::all() {
        let path = Path::new(pin::PROGRAMS).join(name);
        match fs::rename(path.with_file_name(waiting(name)), &path) {
            Ok(()) => published += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(MigrationError::pin(&path, e)),
        }
    }
    Ok(published)
}

/// Removes a pin, if it exists.
///
/// # Errors
/// It cannot be removed.
pub fn remove_pin(path: &Path) -> Result<(), MigrationError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(MigrationError::pin(path, e)),
        _ => Ok(()),
    }
}

/// The directories of versions below `base`: `v4`, `v4-1`.
///
/// # Errors
/// `base` cannot be listed.
pub fn version_dirs(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| is_version(&name.to_string_lossy())) {
            dirs.push(path);
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn is_version(name: &str) -> bool {
    let Some(number) = name.strip_prefix('v') else { return false };
    let parts: Vec<&str> = number.split('-').collect();
    parts.len() <= 2 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_a_number_and_perhaps_a_second_one() {
        for name in ["v1", "v13", "v4-1"] {
            assert!(is_version(name), "{name}");
        }
        for name in ["vault", "v", "v1-", "v1-2-3", "4", "v4-new"] {
            assert!(!is_version(name), "{name}");
        }
    }
}
