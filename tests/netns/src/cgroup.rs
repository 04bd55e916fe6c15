//! A cgroup per node: where its agent attaches socket programs, and by which everything that runs
//! on the node is ended.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

const PREFIX: &str = "sluice-netns-";

/// A cgroup v2 folder of our own, removed with everything in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below the machine's root, and removes what tests that were killed left there.
    pub fn new(name: &str) -> Cgroup {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = mount_point();
        sweep(&root);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(path.join("pods")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Cgroup { path }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts `command` in the cgroup `below` this one. It ends with the thread that starts it, even
    /// if that is killed.
    pub fn adopt(&self, command: &mut Command, below: &str) {
        let procs = self.path.join(below).join("cgroup.procs");
        let procs = OpenOptions::new().write(true).open(&procs).unwrap();
        // SAFETY: between fork and exec the closure makes prctl(2) and one write(2) to an open
        // descriptor; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || join(&procs));
        }
    }
}

/// "0" names the process that writes.
fn join(procs: &File) -> std::io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    nix::unistd::write(procs, b"0")?;
    Ok(())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for _ in 0..200 {
        let _ = fs::remove_dir(path.join("pods"));
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            _ => return,
        }
    }
    eprintln!("{}: something still runs there", path.display());
}

/// Removes cgroups whose test process is gone.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            remove(&entry.path());
        }
    }
}

fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .expect("a cgroup v2 mount")
}
