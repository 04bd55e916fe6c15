//! `sluice doctor`: what this node has and lacks.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Output, print_json};
use crate::dataplane::probe;

/// Flags of `sluice doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// cgroup v2 root of the node (default: found).
    #[arg(long, value_name = "FOLDER")]
    cgroup_root: Option<PathBuf>,
}

/// Prints the findings; the exit code says whether anything is missing.
///
/// # Errors
/// If the output cannot be written.
pub fn run(args: &Args, output: Output) -> anyhow::Result<ExitCode> {
    let findings = probe::look(args.cgroup_root.as_deref());
    match output {
        Output::Json => print_json(&findings)?,
        Output::Text => {
            match findings.missing_line() {
                Some(line) => println!("{line}"),
                None => println!("nothing is missing (kernel {})", findings.kernel),
            }
            for note in &findings.notes {
                println!("note: {note}");
            }
        }
    }
    Ok(if findings.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
