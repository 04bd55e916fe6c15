//! A cgroup of the test, with socket programs attached and the test process in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::{CgroupAttachMode, Program};
use sluice_bpf::attach::CGROUP_ROOT;

use crate::Datapath;

/// Prefix of the names of cgroups; the process id follows.
const PREFIX: &str = "sluice-packet-tests-";

/// The test process has one cgroup: tests that use it run one after the other.
static LOCK: Mutex<()> = Mutex::new(());

/// While this value lives, the programs run for every socket of the process.
pub struct InCgroup {
    home: PathBuf,
    own: PathBuf,
    _lock: MutexGuard<'static, ()>,
}

impl InCgroup {
    /// Creates the cgroup, attaches these socket programs and moves the process into it.
    pub fn enter(datapath: &mut Datapath, programs: &[&str]) -> InCgroup {
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = PathBuf::from(CGROUP_ROOT);
        let root = [alone.join("unified"), alone]
            .into_iter()
            .find(|mount| mount.join("cgroup.procs").exists() && !mount.join("tasks").exists())
            .expect("cgroup v2 is mounted");
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
        remove_left_over(&root);
        let own = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
        let entered = InCgroup { home: root.join(path), own, _lock: lock };
        datapath.load_socket_programs();
        let cgroup = File::open(&entered.own).unwrap();
        for name in programs {
            let attached = match datapath.program_mut(name) {
                Program::CgroupSockAddr(program) => {
                    program.attach(&cgroup, CgroupAttachMode::Single).map(drop)
                }
                Program::CgroupSock(program) => {
                    program.attach(&cgroup, CgroupAttachMode::Single).map(drop)
                }
                _ => panic!("{name} is not a socket program"),
            };
            attached.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        fs::write(entered.own.join("cgroup.procs"), "0").unwrap();
        entered
    }
}

/// Removes the cgroups of test processes that were killed.
fn remove_left_over(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Drop for InCgroup {
    fn drop(&mut self) {
        let left = fs::write(self.home.join("cgroup.procs"), "0");
        let removed = fs::remove_dir(&self.own);
        if let Err(e) = left.and(removed) {
            eprintln!("could not remove cgroup {}: {e}", self.own.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_ended_processes_are_removed() {
        let root = std::env::temp_dir().join(format!("sluice-cgroups-{}", std::process::id()));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let names = [format!("{PREFIX}{}", ended.id()), format!("{PREFIX}{}", std::process::id())];
        for name in &names {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        remove_left_over(&root);
        let exist = names.map(|name| root.join(name).exists());
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(exist, [false, true]);
    }
}
