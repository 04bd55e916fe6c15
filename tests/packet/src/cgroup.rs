//! A cgroup of the test's own, with the socket programs attached and this process in it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use sluice_abi::program;

use crate::Kernel;

/// Where cgroup2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// One process, one cgroup: tests in it take turns.
static TURN: Mutex<()> = Mutex::new(());

/// While this lives, every socket of the process is under the programs.
pub struct InCgroup {
    home: PathBuf,
    own: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl InCgroup {
    /// Makes the cgroup, attaches all socket programs and moves in.
    pub fn enter(kernel: &mut Kernel) -> InCgroup {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = MOUNTS
            .iter()
            .map(PathBuf::from)
            .find(|mount| mount.join("cgroup.procs").exists() && !mount.join("tasks").exists())
            .expect("cgroup2 is mounted");
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
        let own = root.join(format!("sluice-packet-tests-{}", std::process::id()));
        fs::create_dir(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
        let entered = InCgroup { home: root.join(path), own, _turn: turn };
        let cgroup = File::open(&entered.own).unwrap();
        for name in program::SOCKET {
            let program: &mut CgroupSockAddr = kernel.program_mut(name).try_into().unwrap();
            program
                .attach(&cgroup, CgroupAttachMode::Single)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        fs::write(entered.own.join("cgroup.procs"), "0").unwrap();
        entered
    }
}

impl Drop for InCgroup {
    fn drop(&mut self) {
        let home = fs::write(self.home.join("cgroup.procs"), "0");
        let gone = fs::remove_dir(&self.own);
        if let Err(e) = home.and(gone) {
            eprintln!("{} is left behind: {e}", self.own.display());
        }
    }
}
