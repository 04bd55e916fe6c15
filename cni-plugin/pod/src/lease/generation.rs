//! Generations of leases: a counter for each index.
//!
//! Rows have 16 bits of a generation ([`Lease::row_generation`](super::Lease::row_generation)). Those of a counter
//! repeat after 65,535 ADDs of one index, not earlier; random ones could repeat in the next ADD.
//!
//! ```text
//! <stateDir>/generations   4 bytes for each index, in the byte order of the node; 0: none so far
//! ```
//! A counter begins with a random number, also after the file was lost. Versions of Sluice without this file use
//! random generations, which can be equal by chance.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::random;

/// Name of the file.
const FILE: &str = "generations";

/// The counters; the lock of the store is held.
#[derive(Debug)]
pub(super) struct Generations(File);

impl Generations {
    /// Opens the counters of the store in `dir`.
    ///
    /// # Errors
    /// The file cannot be created or opened.
    pub(super) fn open(dir: &Path) -> io::Result<Generations> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        options.open(dir.join(FILE)).map(Generations)
    }

    /// The next generation of an index, which is not zero. It is used from now on, also by a call that
    /// ends before it writes its lease.
    ///
    /// # Errors
    /// The file, or /dev/urandom, cannot be read, or the file cannot be written.
    pub(super) fn next(&self, index: u32) -> io::Result<u32> {
        let next = match self.last(index)? {
            0 => u32::from_ne_bytes(random::nonzero()?),
            last => last.wrapping_add(1).max(1),
        };
        self.set(index, next)?;
        Ok(next)
    }

    /// Continues after the generation of a lease that was rebuilt, if the counter has not passed it: the
    /// leases of an index can be rebuilt in any order, and a generation is not used twice.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn pass(&self, index: u32, generation: u32) -> io::Result<()> {
        match self.last(index)? {
            // Of two numbers that wrap, the later one is less than half of all numbers ahead.
            last if last != 0 && generation.wrapping_sub(last).cast_signed() <= 0 => Ok(()),
            _ => self.set(index, generation),
        }
    }

    fn set(&self, index: u32, generation: u32) -> io::Result<()> {
        self.0.write_all_at(&generation.to_ne_bytes(), offset(index))
    }

    /// 0 beyond the end of the file.
    fn last(&self, index: u32) -> io::Result<u32> {
        let mut bytes = [0; 4];
        match self.0.read_exact_at(&mut bytes, offset(index)) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(e),
            Err(_) => Ok(0),
            Ok(()) => Ok(u32::from_ne_bytes(bytes)),
        }
    }
}

fn offset(index: u32) -> u64 {
    u64::from(index) * 4
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use super::*;
    use crate::lease::{INDEX_MAX, Lease, fixture};

    fn row_generation(generation: u32) -> u16 {
        Lease { generation, ..fixture::lease("c1") }.row_generation()
    }

    #[test]
    fn rows_of_one_index_have_no_generation_twice_in_65535_adds() {
        let dir = tempfile::tempdir().unwrap();
        let counters = Generations::open(dir.path()).unwrap();
        let other = counters.next(6).unwrap();
        // Where the 32 bits begin again.
        counters.set(7, u32::MAX - 1000).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..u16::MAX {
            let generation = counters.next(7).unwrap();
            assert_ne!(generation, 0);
            assert!(seen.insert(row_generation(generation)), "{generation:#x}");
        }
        assert_eq!(counters.next(6).unwrap(), other.wrapping_add(1).max(1), "its own counter");
    }

    #[test]
    fn counter_passes_the_generations_of_rebuilt_leases_and_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let counters = Generations::open(dir.path()).unwrap();
        for (rebuilt, next) in [
            // The first one of the counter, then one that it has passed, the same and a later one.
            (1000, 1001),
            (900, 1002),
            (1002, 1003),
            (2000, 2001),
            (2001 + i32::MAX.cast_unsigned(), 2002 + i32::MAX.cast_unsigned()),
            // Across the end of the numbers, and back.
            (u32::MAX - 1, u32::MAX),
            (5, 6),
            (u32::MAX, 7),
        ] {
            counters.pass(7, rebuilt).unwrap();
            assert_eq!(counters.next(7).unwrap(), next, "after {rebuilt}");
        }
    }

    #[test]
    fn counter_continues_in_the_next_process_and_begins_randomly() {
        let first = |dir: &Path| Generations::open(dir).unwrap().next(INDEX_MAX - 1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let before = first(dir.path());
        assert_eq!(first(dir.path()), before.wrapping_add(1).max(1));
        let starts: BTreeSet<u32> =
            (0..20).map(|_| first(tempfile::tempdir().unwrap().path())).collect();
        assert!(starts.len() > 15 && !starts.contains(&0), "{starts:?}");
        // The end of a file that was cut off.
        std::fs::write(dir.path().join(FILE), [1; 3]).unwrap();
        assert_ne!(Generations::open(dir.path()).unwrap().next(0).unwrap(), 0);
    }
}
