//! `sluice cleanup`: removes Sluice from this node. Pods on it lose connectivity.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;

use super::output::print_text;
use crate::config::may_be_empty;
use crate::kernel::linux::{clear_network, cni_files, hooks, pins, probe};
use crate::lock::{self, Lock};
use crate::paths;

/// Flags of `sluice cleanup`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directory of the installed CNI binary; empty keeps the binary.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_BIN_DIR, value_parser = may_be_empty())]
    cni_bin_dir: PathBuf,
    /// Directory of the CNI configuration; empty keeps the configuration.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_CONF_DIR, value_parser = may_be_empty())]
    cni_conf_dir: PathBuf,
    /// Root of the cgroup v2 hierarchy (default: detected).
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
}

/// Result of the steps so far.
#[derive(Debug, Default)]
struct Steps {
    removed: Vec<String>,
    failed: Vec<String>,
}

impl Steps {
    /// Records a step: the number of removed objects, or its error.
    fn record(&mut self, objects: &str, result: anyhow::Result<usize>) {
        match result {
            Ok(0) => {}
            Ok(n) => self.removed.push(format!("{n} {objects}")),
            Err(e) => self.failed.push(format!("{objects}: {e:#}")),
        }
    }

    /// # Errors
    /// A step failed.
    fn result(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.failed.is_empty(),
            "could not remove {}; correct the cause and run the command again",
            self.failed.join("; ")
        );
        Ok(())
    }
}

/// Removes all parts of Sluice; idempotent. A step that fails does not prevent the others.
///
/// # Errors
/// An agent is running, or a part could not be removed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // An agent that runs would restore what is removed.
    let _lock = Lock::take(Path::new(paths::RUN_DIR), lock::WAIT)?;
    let mut steps = Steps::default();
    // The configuration first: without it the runtime starts no pod that uses the rest.
    for name in [paths::CNI_CONF_NAME, paths::FORMER_CNI_CONF_NAME] {
        steps.record("CNI configuration", remove_file(&args.cni_conf_dir, name));
    }
    steps.record("CNI binary", remove_file(&args.cni_bin_dir, paths::CNI_BINARY_NAME));
    steps.record("socket programs", detach_sockets(args.cgroup_root.as_deref()));
    steps.record("device programs and routes", clear_network().map_err(Into::into));
    steps.record("directory of pinned maps and programs", remove_dir(pins::base()));
    for removed in &steps.removed {
        print_text(&format!("removed {removed}\n"))?;
    }
    steps.result()
}

/// Without the cgroup root the socket programs would stay attached and keep their maps in the kernel.
fn detach_sockets(given: Option<&Path>) -> anyhow::Result<usize> {
    let root = probe::run(given).cgroup_root.with_context(|| match given {
        Some(path) => format!("{} is not a cgroup v2 mount", path.display()),
        None => "no cgroup v2 mount found; set --cgroup-root".to_owned(),
    })?;
    Ok(hooks::detach_sockets(&root)?)
}

/// Removes `name` in `dir`; an empty `dir` disables the step.
fn remove_file(dir: &Path, name: &str) -> anyhow::Result<usize> {
    if dir.as_os_str().is_empty() {
        return Ok(0);
    }
    Ok(usize::from(cni_files::remove(&dir.join(name))?))
}

fn remove_dir(dir: &Path) -> anyhow::Result<usize> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(1),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_removed_once_and_an_empty_directory_disables_the_step() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("conf"), "").unwrap();
        assert_eq!(remove_file(dir.path(), "conf").unwrap(), 1);
        assert_eq!(remove_file(dir.path(), "conf").unwrap(), 0);
        assert_eq!(remove_file(Path::new(""), "conf").unwrap(), 0);
        let sub = dir.path().join("pins");
        fs::create_dir_all(sub.join("maps")).unwrap();
        assert_eq!(remove_dir(&sub).unwrap(), 1);
        assert_eq!(remove_dir(&sub).unwrap(), 0);
    }

    #[test]
    fn failed_step_fails_the_command_and_names_the_object() {
        let mut steps = Steps::default();
        steps.record("routes", Ok(2));
        steps.record("pins", Ok(0));
        assert!(steps.result().is_ok());
        steps.record("socket programs", Err(anyhow::anyhow!("denied")));
        assert_eq!(steps.removed, ["2 routes"]);
        assert!(steps.result().unwrap_err().to_string().contains("socket programs: denied"));
    }
}
