//! libFuzzer on one target, see `cargo xtask fuzz`.
//!
//! `SLUICE_FUZZ_TARGET` is the name of the target. `SLUICE_FUZZ_SEEDS` is a folder to which its
//! corpus is written before libFuzzer reads it.
#![no_main]

use std::env;
use std::path::Path;
use std::sync::OnceLock;

use fuzz_tests::{Target, corpus, find};

static TARGET: OnceLock<Target> = OnceLock::new();

/// Reads the environment. The process ends if it is not valid.
fn target() -> Target {
    let name = env::var("SLUICE_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = find(&name) else {
        eprintln!("SLUICE_FUZZ_TARGET={name} is not a fuzz target");
        std::process::exit(2);
    };
    if let Some(folder) = env::var_os("SLUICE_FUZZ_SEEDS")
        && let Err(error) = corpus::export(target.name, Path::new(&folder))
    {
        eprintln!("{}: {error}", folder.display());
        std::process::exit(2);
    }
    target
}

libfuzzer_sys::fuzz_target!(
    init: { TARGET.get_or_init(target); },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);
