//! Pods that an ADD of the other version's CNI binary connects after the switch: their rows are
//! written to the maps of that version.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use sluice_abi::map;
use sluice_bpf::layout::Conversion;
use sluice_bpf::{BpfError, error_chain};

use super::MigrationError;
use super::pin_set::{DescribedMap, PinSet};

/// Time in which every ADD ends that has begun before the CNI binary is replaced.
const WHILE: Duration = Duration::from_secs(10);
/// Time in which nearly all of these ADDs end, with the shorter interval.
const AT_FIRST: Duration = Duration::from_millis(500);
/// Interval of polling at first. ADD writes the row before the pod's device is up.
const SHORT_INTERVAL: Duration = Duration::from_millis(1);
/// Interval of polling later.
const INTERVAL: Duration = Duration::from_millis(5);

/// Keys and values of the rows in use.
type Rows = BTreeSet<(Vec<u8>, Vec<u8>)>;

/// One map, as it was at the last look.
struct Watched {
    source: DescribedMap,
    target: DescribedMap,
    conversion: Conversion,
    known: Rows,
}

/// Copies rows that appear in the other version's maps, in a thread of its own.
///
/// # Errors
/// The maps cannot be opened, read or converted.
pub fn follow(from: &PinSet, to: &PinSet) -> Result<(), MigrationError> {
    let mut watched = Vec::new();
    // By index first, as ADD does.
    for name in [map::PODS, map::LOCAL_PODS] {
        let (Some(source), Some(target)) = (from.map(name)?, to.map(name)?) else { continue };
        if source.is(&target) {
            continue;
        }
        let conversion = super::copy::conversion(name, (from, &source), (to, &target))?;
        let mut map = Watched { source, target, conversion, known: Rows::new() };
        map.known = map.rows()?;
        watched.push(map);
    }
    if watched.is_empty() {
        return Ok(());
    }
    let copy = move || {
        let start = Instant::now();
        while start.elapsed() < WHILE {
            thread::sleep(if start.elapsed() < AT_FIRST { SHORT_INTERVAL } else { INTERVAL });
            for map in &mut watched {
                if let Err(error) = map.copy_new_rows() {
                    // The reconciler of the pods repairs the rows from the leases.
                    tracing::warn!(error = %error_chain(&error), "could not copy rows of new pods");
                    return;
                }
            }
        }
    };
    thread::Builder::new()
        .name("late-pods".to_owned())
        .spawn(copy)
        .map(drop)
        .map_err(MigrationError::Thread)
}

impl Watched {
    fn rows(&self) -> Result<Rows, BpfError> {
        let entries = self.source.map.entries()?;
        let (key, value) = self.source.sizes();
        let rows = entries.keys.chunks_exact(key).zip(entries.values.chunks_exact(value));
        let used = rows.filter(|(_, value)| value.iter().any(|byte| *byte != 0));
        Ok(used.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }

    fn copy_new_rows(&mut self) -> Result<(), BpfError> {
        let rows = self.rows()?;
        for (key, value) in rows.difference(&self.known) {
            let (keys, values, _) = self.conversion.convert(key, value);
            self.target.map.update_batch(&keys, &values)?;
        }
        self.known = rows;
        Ok(())
    }
}
