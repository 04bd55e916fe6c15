//! What a failed test has done, as files in `target/test-artefacts/packet/<test>/`. A [`Datapath`] writes
//! them when it is dropped by a panic.
//!
//! ```text
//! runs.txt    the last runs in order: program, device, frame in, action, frame out, counters that moved
//! runs.pcap   the same frames; see `recording.rs` for their times
//! maps.txt    tables and counters
//! ```
//! The files of a test's further datapaths are in `datapath2/` and so on, in the order in which they are
//! dropped. Nothing here panics: the test is already unwinding.

mod maps;
mod recording;

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;

pub(crate) use self::recording::{RecordedRun, Recording};
use crate::Datapath;

thread_local! {
    /// Datapaths of this thread's test whose artefacts are written.
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if thread::panicking() {
            write(self);
        }
    }
}

/// The folder of a test's artefacts.
fn folder_of(test: &str) -> PathBuf {
    let given = std::env::var_os("SLUICE_TEST_ARTEFACTS").map(PathBuf::from);
    let target = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/test-artefacts");
    given.unwrap_or_else(target).join("packet").join(test.replace("::", "."))
}

/// Writes the artefacts of the test on the calling thread, which libtest names, and prints their folder.
fn write(datapath: &Datapath) {
    let thread = thread::current();
    let folder = folder_of(thread.name().unwrap_or("unnamed"));
    let number = WRITTEN.get() + 1;
    WRITTEN.set(number);
    let target = if number == 1 {
        // Files of an earlier run.
        let _ = fs::remove_dir_all(&folder);
        folder
    } else {
        folder.join(format!("datapath{number}"))
    };
    let _ = fs::create_dir_all(&target);
    let recording = datapath.recording();
    let _ = fs::write(target.join("runs.txt"), recording.text());
    let _ = fs::write(target.join("runs.pcap"), recording.pcap());
    drop(recording);
    let maps = catch_unwind(AssertUnwindSafe(|| maps::dump(datapath)));
    let maps = maps.unwrap_or_else(|_| "maps: not readable\n".to_owned());
    let _ = fs::write(target.join("maps.txt"), maps);
    eprintln!("artefacts: {}", target.canonicalize().unwrap_or(target).display());
}

#[cfg(test)]
mod tests;
