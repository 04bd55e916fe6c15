//! `sluice doctor`: checks the requirements on this node, and finds other network software.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{Output, print_json, print_text};
use crate::kernel::linux::other_networks;
use crate::kernel::linux::probe::{self, Findings};
use crate::paths;

/// Default port of the health endpoints of Sluice and of kube-proxy.
const HEALTH_PORT: u16 = 10256;
/// Where the DaemonSet mounts the directory of the CNI configuration.
const MOUNTED_CNI_CONF_DIR: &str = "/host/etc/cni/net.d";

/// Flags of `sluice doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Root of the cgroup v2 hierarchy (default: detected).
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Directory of the CNI configuration (default: that of the node).
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
}

/// Prints the findings; the exit code is 0 without missing requirements and problems.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = probe::run(args.cgroup_root.as_deref());
    findings.problems = problems(args.cni_conf_dir.as_deref());
    match output {
        Output::Json => print_json(&findings)?,
        Output::Text => print_text(&text(&findings))?,
    }
    let passed = findings.missing.is_empty() && findings.problems.is_empty();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Other network software on this node.
fn problems(conf_dir: Option<&Path>) -> Vec<String> {
    let mounted = Path::new(MOUNTED_CNI_CONF_DIR);
    let default = if mounted.is_dir() { mounted } else { Path::new(paths::CNI_CONF_DIR) };
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT));
    let server = other_networks::other_health_server(health);
    server.into_iter().chain(other_networks::problems(Some(conf_dir.unwrap_or(default)))).collect()
}

fn text(findings: &Findings) -> String {
    let mut text = findings
        .missing_line()
        .unwrap_or_else(|| format!("nothing is missing (kernel {})", findings.kernel));
    text.push('\n');
    for problem in &findings.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
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
            problems: vec![],
            notes: vec!["tcx absent".into()],
            cgroup_root: None,
        };
        assert_eq!(text(&findings), "nothing is missing (kernel 6.1.0)\nnote: tcx absent\n");
        findings.problems.push("kube-proxy has rules".into());
        assert!(text(&findings).contains("\nproblem: kube-proxy has rules\n"));
        findings.missing.push("bpffs".into());
        assert!(text(&findings).contains("bpffs"));
        assert!(!text(&findings).contains("nothing"));
    }
}
