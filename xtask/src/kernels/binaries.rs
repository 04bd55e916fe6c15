//! Test binaries for a guest, and their results on its console.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Suite;
use crate::build;
use crate::cache::{Cache, checkout, target};
use crate::process;
use crate::test::Tally;

/// Last line of every script.
pub const END: &str = "SLUICE-GUEST-END";
/// Tests for which an emulated processor is too slow: those of so many packets that each takes ten
/// minutes, those of a number of packets within 100 ms or a few seconds, and those in which a pause of a second is a
/// failure.
pub const TOO_SLOW: [&str; 16] = [
    "a_flood_",
    "a_scan_",
    "random_frames_",
    "a_thousand_udp_",
    "a_window_has_100_events",
    "each_cpu_has_a_window",
    "errors_to_other_hosts_have_a_limit",
    "flow_that_a_packet_revives",
    "growth::",
    "upgrades::",
    "within_a_second",
    "within_15_seconds",
    "restarted_agent_loses_no_request",
    "loses_no_connection",
    "five_thousand_endpoints",
    "sixty_pods",
];
/// Number of sets of objects of the oracle tests, and factor of all deadlines, in an emulator.
const EMULATED: &str = "CASES=500 SLUICE_TIME_FACTOR=10 ";
const BEGIN: &str = "SLUICE-GUEST-BEGIN";

/// A test binary, with the environment that it needs.
pub struct Binary {
    /// Name of the file in tests/, or of the package.
    pub name: String,
    /// The least suite that includes it.
    pub suite: Suite,
    path: PathBuf,
    package: &'static str,
    environment: Vec<(&'static str, PathBuf)>,
}

/// Compiles the test binaries of a suite, and gives them and their inputs names of their own below
/// target/kernels: a build during the run does not replace files that a guest reads.
///
/// # Errors
/// When a build fails.
pub fn build(cache: &Cache, suite: Suite) -> Result<Vec<Binary>> {
    let (mut binaries, programs) = compile_suite(cache, suite)?;
    let folder = target().join("kernels/files");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    // Tests find them above their own folder, as in that of cargo.
    for program in &programs {
        fs::copy(program, folder.join(program.file_name().unwrap_or_default()))
            .with_context(|| format!("cannot copy {}", program.display()))?;
    }
    for binary in &mut binaries {
        binary.path = keep(&folder, &binary.path)?;
        for (_, input) in &mut binary.environment {
            *input = keep(&folder, input)?;
        }
    }
    Ok(binaries)
}

/// Copies a file to the folder, unless that has been done. The programs of both versions have one name.
fn keep(folder: &Path, file: &Path) -> Result<PathBuf> {
    let from = file.parent().and_then(Path::file_name).unwrap_or_default();
    let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
    let folder = folder.join(from);
    fs::create_dir_all(&folder)?;
    let kept = folder.join(name);
    if !kept.exists() {
        fs::copy(file, &kept).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(kept)
}

/// The test binaries, and the programs that they start.
fn compile_suite(cache: &Cache, suite: Suite) -> Result<(Vec<Binary>, Vec<PathBuf>)> {
    if suite < Suite::Netns {
        let environment = [(build::OBJECT_VARIABLE, build::bpf_object(cache)?)];
        let (mut binaries, programs) =
            compile("packet", "packet-tests", Suite::Packet, &environment)?;
        binaries.retain(|b| b.suite <= suite);
        return Ok((binaries, programs));
    }
    // Cargo places both versions' programs at the same paths; the last one stays.
    let next = build::next_programs(cache)?;
    let programs = build::programs(cache)?;
    let both = programs.environment().into_iter().chain(next.environment());
    let environment: Vec<_> = both.map(|(name, path)| (name, path.to_owned())).collect();
    let (mut binaries, mut programs) =
        compile("packet", "packet-tests", Suite::Packet, &environment)?;
    let (of_netns, programs_of_netns) =
        compile("netns", "netns-tests", Suite::Netns, &environment)?;
    binaries.extend(of_netns);
    programs.extend(programs_of_netns);
    Ok((binaries, programs))
}

fn compile(
    folder: &'static str,
    package: &str,
    suite: Suite,
    environment: &[(&'static str, PathBuf)],
) -> Result<(Vec<Binary>, Vec<PathBuf>)> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout()).envs(environment.iter().map(|(k, v)| (k, v)));
    cargo.args(["test", "--no-run", "--message-format=json", "--package", package]);
    let messages = process::output_within(&mut cargo, process::BUILD)?;
    let Executables { tests, programs } = executables(&messages)?;
    let binary = |(name, path): (String, PathBuf)| Binary {
        suite: if name == "load" { Suite::Load } else { suite },
        name,
        path,
        package: folder,
        environment: environment.to_vec(),
    };
    Ok((tests.into_iter().map(binary).collect(), programs))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Executables {
    /// Name and path of each test binary.
    tests: Vec<(String, PathBuf)>,
    /// The other programs of the package.
    programs: Vec<PathBuf>,
}

/// The executables in cargo's messages.
fn executables(messages: &str) -> Result<Executables> {
    let mut found = Executables::default();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("a message of cargo")?;
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
        if message["profile"]["test"] == true {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            found.tests.push((name.to_owned(), path));
        } else {
            found.programs.push(path);
        }
    }
    Ok(found)
}

/// A shell script that runs the binaries one after the other, one test at a time; in an emulator,
/// without the tests that are too slow there. With a filter, only tests whose names contain one of its texts.
pub fn script(
    binaries: &[&Binary],
    jit_hardening: bool,
    emulated: bool,
    filter: &[String],
) -> String {
    let mut script = String::new();
    let slow = TOO_SLOW.map(|name| format!(" --skip {name}")).concat();
    let filter: String = filter.iter().map(|name| format!(" '{name}'")).collect();
    let (factors, skip) = if emulated { (EMULATED, slow.as_str()) } else { ("", "") };
    if jit_hardening {
        script.push_str("echo 2 > /proc/sys/net/core/bpf_jit_harden\n");
    }
    for binary in binaries {
        let folder = checkout().join("tests").join(binary.package);
        let environment: String = binary
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={} ", value.display()))
            .collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "echo {BEGIN} {name}; cd {folder} && {factors}{environment}{path} --test-threads=1{skip}{filter}",
            name = binary.name,
            folder = folder.display(),
            path = binary.path.display(),
        );
    }
    script + &format!("echo {END}\nsync\necho o > /proc/sysrq-trigger\nsleep 60\n")
}

/// Sums the results on a console. A binary without a result counts as one failure.
pub fn tally(binaries: &[&Binary], console: &str) -> Tally {
    let mut total = Tally::default();
    for binary in binaries {
        let begin = format!("{BEGIN} {}\n", binary.name);
        let output = console.split(&begin).nth(1).unwrap_or_default();
        let output = output.split(BEGIN).next().unwrap_or_default();
        let sums = output.lines().find_map(Tally::of_line);
        match sums {
            Some(sums) => total = total + sums,
            None => {
                eprintln!("    {}: no result", binary.name);
                total = total + Tally::FAILURE;
            }
        }
        let skipped = output.lines().filter(|line| line.starts_with("SKIPPED ")).count();
        total.passed = total.passed.saturating_sub(skipped);
        total.skipped += skipped;
        for line in output.lines().filter(|line| line.contains("panicked at")) {
            eprintln!("    {}: {line}", binary.name);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(name: &str) -> Binary {
        Binary {
            name: name.to_owned(),
            suite: Suite::Load,
            path: PathBuf::from("/x"),
            package: "packet",
            environment: Vec::new(),
        }
    }

    #[test]
    fn results_are_attributed_to_their_binaries_and_a_missing_one_fails() {
        let (load, socket) = (binary("load"), binary("socket"));
        let console = format!(
            "boot\n{BEGIN} load\nSKIPPED tcx: absent\ntest result: ok. 2 passed; 0 failed; 0 ignored;\n{BEGIN} socket\nkilled\n{END}\n"
        );
        let tally = tally(&[&load, &socket], &console);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
    }

    #[test]
    fn executables_are_tests_and_the_programs_that_they_start() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"load"},"profile":{"test":true},"executable":"/t/load-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"bin"},"profile":{"test":false},"executable":"/t/bin"}"#,
            "\n"
        );
        let found = executables(messages).unwrap();
        let tests = vec![("load".to_owned(), PathBuf::from("/t/load-1"))];
        assert_eq!(found, Executables { tests, programs: vec![PathBuf::from("/t/bin")] });
    }

    #[test]
    fn script_sets_jit_hardening_only_if_asked() {
        let load = binary("load");
        assert!(script(&[&load], true, true, &[]).contains("bpf_jit_harden"));
        assert!(!script(&[&load], false, true, &[]).contains("bpf_jit_harden"));
    }

    #[test]
    fn slow_tests_are_skipped_in_an_emulator_only() {
        let load = binary("load");
        assert!(script(&[&load], false, true, &[]).contains("--skip a_flood_"));
        assert!(!script(&[&load], false, false, &[]).contains("--skip"));
    }

    #[test]
    fn filter_selects_tests_of_each_binary() {
        let load = binary("load");
        let filter = ["one".to_owned(), "two".to_owned()];
        assert!(script(&[&load], false, false, &filter).contains("--test-threads=1 'one' 'two'\n"));
    }
}
