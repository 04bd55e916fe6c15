//! Maps of this version that make way for others of the same version.

use std::fs;

use sluice_abi::map;
use sluice_bpf as bpf;

use super::MigrationError;
use super::pin_set::{Description, PinSet, Role, id_below, map_below, remove_pin, version_dirs};

/// Maps that belong to one set of programs: they are never shared.
const PER_VERSION: [&str; 3] = [map::NODE_CONFIG, map::SUCCESSORS, map::PREDECESSORS];

impl PinSet {
    /// Unpins maps so that others can be pinned in their place, and what depends on them. Attached
    /// programs continue to use these maps.
    ///
    /// # Errors
    /// A pin cannot be read, written or removed.
    pub fn make_way(&self, changed: &[&str]) -> Result<(), MigrationError> {
        // `NODE_CONFIG` before maps whose contents are needed: until it is replaced, `undo_make_way`
        // restores all.
        let mut removed: Vec<&str> = Vec::new();
        match self.role()? {
            // The tables and the configuration are copied again.
            Role::NotReady => removed.push(map::NODE_CONFIG),
            // They continue as another version, with a directory of their own.
            Role::Active => {
                let aside = self.set_aside(Description::Copied)?;
                tracing::info!(pins = %aside.display(), "maps set aside: attached programs use them until the switch");
                removed.extend(PER_VERSION);
            }
            // They pass their packets on until they are replaced. No map stays pinned: tables and
            // flows are those of the time when they were active. Flows first: without `NODE_CONFIG`,
            // a later start cannot detect that they are old.
            Role::HandedOver => {
                self.set_aside(Description::Omitted)?;
                removed.extend(map::FLOW_TABLES);
                removed.extend(PER_VERSION);
                removed.extend(map::ALL);
            }
        }
        for name in removed.iter().chain(changed) {
            remove_pin(&self.dir().join("maps").join(name))?;
        }
        Ok(())
    }

    /// Ends a replacement that an earlier call of [`PinSet::make_way`] began, if it has not replaced
    /// `NODE_CONFIG` or that is back: pins the maps that were set aside, and removes the directory.
    ///
    /// # Errors
    /// A directory cannot be listed or removed, or a pin cannot be opened or written.
    pub fn undo_make_way(&self) -> Result<(), MigrationError> {
        let Some(config) = self.any_map(map::NODE_CONFIG)? else { return Ok(()) };
        let base = self.dir().parent().unwrap_or(self.dir());
        for dir in version_dirs(base).map_err(|e| MigrationError::pin(base, e))? {
            if dir == self.dir() || id_below(&dir, map::NODE_CONFIG)? != Some(config.info().id) {
                continue;
            }
            for name in map::ALL {
                let Some(kept) = map_below(&dir, name)? else { continue };
                if id_below(self.dir(), name)? != Some(kept.info().id) {
                    let path = self.dir().join("maps").join(name);
                    remove_pin(&path)?;
                    bpf::obj_pin(&path, &kept)?;
                }
            }
            fs::remove_dir_all(&dir).map_err(|e| MigrationError::pin(&dir, e))?;
        }
        Ok(())
    }
}
