//! `sluice doctor`: checks the requirements on this node.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{Output, print_json, print_text};
use crate::kernel::linux::probe::{self, Findings};

/// Flags of `sluice doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Root of the cgroup v2 hierarchy (default: detected).
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
}

/// Prints the findings; the exit code is 0 if nothing is missing.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args, output: Output) -> anyhow::Result<ExitCode> {
    let findings = probe::run(args.cgroup_root.as_deref());
    match output {
        Output::Json => print_json(&findings)?,
        Output::Text => print_text(&text(&findings))?,
    }
    Ok(if findings.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(findings: &Findings) -> String {
    let mut text = findings
        .missing_line()
        .unwrap_or_else(|| format!("nothing is missing (kernel {})", findings.kernel));
    text.push('\n');
    for note in &findings.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_what_is_missing_or_that_nothing_is() {
        let mut findings = Findings {
            kernel: "6.1.0".into(),
            missing: vec![],
            notes: vec!["tcx absent".into()],
            cgroup_root: None,
        };
        assert_eq!(text(&findings), "nothing is missing (kernel 6.1.0)\nnote: tcx absent\n");
        findings.missing.push("bpffs".into());
        assert!(text(&findings).contains("bpffs"));
        assert!(!text(&findings).contains("nothing"));
    }
}
