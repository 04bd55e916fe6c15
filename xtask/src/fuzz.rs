//! `cargo xtask fuzz`: libFuzzer on the fuzz targets of `tests/fuzz`.
//!
//! The targets are compiled for coverage into `target/fuzz`, with the stable compiler and a C++
//! compiler for libFuzzer. Each target starts from its corpus in `tests/fuzz/corpus`; inputs that
//! reach new code are kept in `target/fuzz/corpus` for the next run. The unit level needs none of
//! this: it replays the corpus and random changes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::arch::Arch;
use crate::cache::{Cache, checkout, sorted_entries, target};
use crate::{process, progress};

/// Coverage counters and the operands of comparisons, as libFuzzer reads them.
const COVERAGE_FLAGS: &str = "-C passes=sancov-module \
     -C llvm-args=-sanitizer-coverage-level=4 \
     -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
     -C llvm-args=-sanitizer-coverage-pc-table \
     -C llvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer is a crash.
const INPUT_TIMEOUT_SECONDS: u32 = 10;
const MEMORY_LIMIT_MIB: u32 = 2048;
/// Longest input in bytes: twice the limit of the agent's socket.
const MAX_INPUT: u32 = 8192;
/// Time that a target has to stop after its fuzzing time.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub struct Options {
    /// Fuzz only this target: the name of a folder in tests/fuzz/corpus
    target: Option<String>,
    /// Time for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Fuzzes one target after the other; the exit code is a failure if one crashed.
///
/// # Errors
/// The target does not exist, or the targets do not compile.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    let all = targets(&checkout().join("tests/fuzz/corpus"))?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| options.target.as_ref().is_none_or(|t| t == *name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no such target; targets: {}", all.join(", "));
    let program = build(cache)?;
    let mut crashed = false;
    for name in chosen {
        crashed |= !fuzz(cache, &program, name, options.seconds)?;
    }
    Ok(if crashed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The targets: the folders of the corpus.
fn targets(corpus: &Path) -> Result<Vec<String>> {
    let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(sorted_entries(corpus)?.iter().filter_map(name).collect())
}

fn build(cache: &Cache) -> Result<PathBuf> {
    let folder = target().join("fuzz");
    // With a target triple, the flags do not apply to build scripts and procedural macros.
    let triple = Arch::HOST.triple();
    let mut command = Command::new("cargo");
    command
        .current_dir(checkout())
        .args(["build", "--package", "fuzz-tests", "--bin", "fuzz", "--features", "libfuzzer"])
        .args(["--profile", "fuzz", "--target", &triple, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", COVERAGE_FLAGS);
    process::run("building fuzz targets", &mut command, &cache.logs(), process::BUILD)
        .context("libFuzzer requires a C++ compiler, such as the package g++")?;
    Ok(folder.join(triple).join("fuzz/fuzz"))
}

/// Fuzzes one target and prints the result; returns whether it did not crash.
fn fuzz(cache: &Cache, program: &Path, name: &str, seconds: u64) -> Result<bool> {
    let start = Instant::now();
    let (corpus, crashes) = (folder("corpus", name)?, folder("crashes", name)?);
    let before = sorted_entries(&crashes)?;
    let mut command = Command::new(program);
    command
        .env("SLUICE_FUZZ_TARGET", name)
        .env("SLUICE_FUZZ_SEEDS", &corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_TIMEOUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus);
    let deadline = Duration::from_secs(seconds) + STOP_TIMEOUT;
    let step = format!("fuzz {name}");
    let (status, log) = process::run_quietly(&step, &mut command, &cache.logs(), deadline)?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if status.success() {
        progress::line(&step, &summary(&text), start.elapsed());
        return Ok(true);
    }
    progress::line(&step, "crashed", start.elapsed());
    eprintln!("{}", panic_message(&text));
    eprintln!("    log: {}", log.display());
    for input in sorted_entries(&crashes)?.iter().filter(|path| !before.contains(path)) {
        eprintln!(
            "    reproduce:  SLUICE_FUZZ_TARGET={name} {} {}",
            program.display(),
            input.display()
        );
        eprintln!("    keep:       cp {} tests/fuzz/corpus/{name}/", input.display());
    }
    Ok(false)
}

fn folder(kind: &str, name: &str) -> Result<PathBuf> {
    let path = target().join("fuzz").join(kind).join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// Number of inputs and covered edges, from the log of libFuzzer.
fn summary(log: &str) -> String {
    let inputs = log.lines().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    let edges = log.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
        words.nth(1)
    });
    format!("{} inputs, {} edges", inputs.unwrap_or("?").trim(), edges.unwrap_or("?"))
}

/// The first panic of a log with its message, or the line of libFuzzer that gives the reason.
fn panic_message(log: &str) -> String {
    let is_start = |line: &&str| {
        (line.starts_with("thread ") && line.contains("panicked"))
            || line.contains("ERROR: libFuzzer")
    };
    let lines = log.lines().skip_while(|line| !is_start(line)).take(4);
    lines.map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_the_inputs_and_the_edges_at_the_end() {
        let log = "#2\tINITED cov: 57 ft: 58 corp: 1/1b\n#9\tNEW    cov: 61 ft: 70\n\
                   Done 99 runs in 2 second(s)\nstat::number_of_executed_units: 99\n";
        assert_eq!(summary(log), "99 inputs, 61 edges");
        assert_eq!(summary(""), "? inputs, ? edges");
    }

    #[test]
    fn message_of_a_crash_is_the_panic_or_the_reason_of_libfuzzer() {
        let log = "INFO: Seed: 1\nthread '<unnamed>' panicked at a.rs:1:2:\nbroken\n";
        assert_eq!(panic_message(log), "    thread '<unnamed>' panicked at a.rs:1:2:\n    broken");
        let log = "#1\n==1== ERROR: libFuzzer: timeout after 10 seconds\n";
        assert_eq!(panic_message(log), "    ==1== ERROR: libFuzzer: timeout after 10 seconds");
    }
}
