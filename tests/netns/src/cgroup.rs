//! A cgroup for each node: the agent attaches its socket programs there, and removing it kills
//! every process of the node.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Prefix of the names of cgroups and temporary folders; the process id follows.
pub(crate) const PREFIX: &str = "sluice-netns-";

/// Deadline of the removal of a cgroup after its processes were killed.
const REMOVE_DEADLINE: Duration = Duration::from_secs(15);

/// A cgroup v2 folder that is removed together with its processes.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates a cgroup below the root, and removes those that killed test processes left.
    pub fn new(name: &str) -> Cgroup {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = mount_point();
        for path in left_over(&root) {
            remove(&path);
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(path.join("pods")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Cgroup { path }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` start in the cgroup `below` this one.
    pub fn adopt(&self, command: &mut Command, below: &str) {
        let procs = self.path.join(below).join("cgroup.procs");
        let procs = OpenOptions::new().write(true).open(&procs).unwrap();
        // SAFETY: between fork and exec the closure makes one write(2) to an open descriptor; it
        // allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || join(&procs));
        }
    }
}

/// "0" names the process that writes.
fn join(procs: &File) -> std::io::Result<()> {
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
    let start = Instant::now();
    loop {
        let _ = fs::remove_dir(path.join("pods"));
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {}
            _ => return,
        }
        if start.elapsed() > REMOVE_DEADLINE {
            eprintln!("{}: processes are still running", path.display());
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Files of a folder that belong to test processes which do not exist anymore.
pub(crate) fn left_over(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        })
        .map(|entry| entry.path())
        .collect()
}

pub(crate) fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .expect("a cgroup v2 mount")
}
