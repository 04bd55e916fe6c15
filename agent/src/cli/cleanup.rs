//! `sluice cleanup`: removes Sluice from this node. Pods on it lose connectivity.
//!
//! deploy/uninstall.yaml runs it on every node, with the root of the host's file system below
//! `--host-root`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::Context;
use sluice_bpf::attach::CGROUP_ROOT;
use tokio::signal::unix::{SignalKind, signal};

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
    /// Directory of the leases of former versions; empty keeps it. The leases in /run/sluice are removed
    /// always.
    #[arg(long, value_name = "DIR", default_value = paths::STATE_DIR, value_parser = may_be_empty())]
    state_dir: PathBuf,
    /// Root of the cgroup v2 hierarchy (default: detected).
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Where the root of the node's file system is mounted; all other paths are below it.
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Seconds to wait for an agent that is being stopped. An agent that keeps running is an error:
    /// it would restore what is removed.
    #[arg(long, value_name = "SECONDS", default_value_t = lock::WAIT.as_secs())]
    wait: u64,
    /// Do not exit after success, until SIGTERM: a DaemonSet's pod is then Ready.
    #[arg(long)]
    hold: bool,
}

impl Args {
    /// A path of the node, as this process sees it.
    fn on_host(&self, path: &Path) -> PathBuf {
        self.host_root.join(path.strip_prefix("/").unwrap_or(path))
    }
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
    let run_dir = args.on_host(Path::new(paths::RUN_DIR));
    // An agent that runs would restore what is removed.
    let lock = Lock::take(&run_dir, Duration::from_secs(args.wait))?;
    let mut steps = Steps::default();
    // The configuration first: without it the runtime starts no pod that uses the rest.
    let file = |dir: &Path, name| remove_file(dir, name, args);
    for name in [paths::CNI_CONF_NAME, paths::FORMER_CNI_CONF_NAME] {
        steps.record("CNI configuration", file(&args.cni_conf_dir, name));
    }
    steps.record("CNI binary", file(&args.cni_bin_dir, paths::CNI_BINARY_NAME));
    steps.record("socket programs", detach_sockets(args));
    steps.record("device programs, pod devices and routes", clear_network().map_err(Into::into));
    let pins = args.on_host(pins::base());
    steps.record("directory of pinned maps and programs", remove_dir(&pins));
    if !args.state_dir.as_os_str().is_empty() {
        steps.record(
            "directory of leases of former versions",
            remove_dir(&args.on_host(&args.state_dir)),
        );
    }
    steps.record("directory of leases, lock and socket", remove_dir(&run_dir));
    // The DaemonSet's mount creates it where the kubelet has none, and kubeadm refuses to join such a node.
    let kubelet_conf = args.on_host(Path::new(paths::KUBELET_CONF));
    steps.record("empty kubelet.conf", remove_empty(&kubelet_conf));
    drop(lock);
    for removed in &steps.removed {
        print_text(&format!("removed {removed}\n"))?;
    }
    steps.result()?;
    if args.hold {
        print_text("this node is clean; waiting for SIGTERM\n")?;
        hold()?;
    }
    Ok(())
}

/// Without the cgroup root the socket programs would stay attached and keep their maps in the kernel.
fn detach_sockets(args: &Args) -> anyhow::Result<usize> {
    let default = args.on_host(Path::new(CGROUP_ROOT));
    let given = args.cgroup_root.as_deref().map(|path| args.on_host(path));
    let in_container = args.host_root != Path::new("/");
    let given = given.or_else(|| in_container.then_some(default));
    let root = probe::run(given.as_deref()).cgroup_root.with_context(|| match &given {
        Some(path) => format!("{} is not a cgroup v2 mount", path.display()),
        None => "no cgroup v2 mount found; set --cgroup-root".to_owned(),
    })?;
    Ok(hooks::detach_sockets(&root)?)
}

/// Blocks until SIGTERM or SIGINT.
fn hold() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
    })
}

/// Removes `name` in `dir`, and a copy that an interrupted installation left; an empty `dir` disables
/// the step.
fn remove_file(dir: &Path, name: &str, args: &Args) -> anyhow::Result<usize> {
    if dir.as_os_str().is_empty() {
        return Ok(0);
    }
    let path = args.on_host(dir).join(name);
    cni_files::remove(&cni_files::beside(&path))?;
    Ok(usize::from(cni_files::remove(&path)?))
}

/// Removes a file without contents.
fn remove_empty(path: &Path) -> anyhow::Result<usize> {
    let is_empty = |m: fs::Metadata| m.is_file() && m.len() == 0;
    if !fs::symlink_metadata(path).is_ok_and(is_empty) {
        return Ok(0);
    }
    Ok(usize::from(cni_files::remove(path)?))
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
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn files_of_the_host_are_removed_once_and_an_empty_directory_disables_the_step() {
        let root = tempfile::tempdir().unwrap();
        let flag = format!("--host-root={}", root.path().display());
        let args = Cli::parse_from(["cleanup", &flag]).args;
        let dir = root.path().join("opt/cni/bin");
        fs::create_dir_all(&dir).unwrap();
        for name in ["sluice", "sluice.sluice-new", "bridge"] {
            fs::write(dir.join(name), "").unwrap();
        }
        assert_eq!(remove_file(&args.cni_bin_dir, "sluice", &args).unwrap(), 1);
        assert_eq!(remove_file(&args.cni_bin_dir, "sluice", &args).unwrap(), 0);
        assert_eq!(remove_file(Path::new(""), "bridge", &args).unwrap(), 0);
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["bridge"]);
        let conf = root.path().join("kubelet.conf");
        fs::write(&conf, "server:").unwrap();
        assert_eq!(remove_empty(&conf).unwrap(), 0);
        fs::write(&conf, "").unwrap();
        assert_eq!(remove_empty(&conf).unwrap(), 1);
        assert_eq!(remove_empty(&conf).unwrap(), 0);
        let sub = root.path().join("pins");
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
