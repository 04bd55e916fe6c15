//! Network and mount namespaces of nodes, pods and hosts.
//!
//! A thread that ends at once creates them; only open files keep them alive, so they end with the
//! test process. A closure runs inside on a thread of its own; a program enters between fork and
//! exec.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// A network namespace, and a mount namespace if it has its own.
#[derive(Clone, Debug)]
pub struct Namespaces {
    net: Arc<File>,
    mounts: Option<Arc<File>>,
}

impl Namespaces {
    /// A host without files of its own. Its loopback device is up.
    pub fn host() -> Namespaces {
        on_thread(|| {
            unshare_or_explain(CloneFlags::CLONE_NEWNET);
            Namespaces { net: own("net"), mounts: None }
        })
        .with_loopback()
    }

    /// A node, which also has its own bpffs, /run and /var/lib.
    pub fn node() -> Namespaces {
        on_thread(|| {
            unshare_or_explain(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            for (kind, target) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("bpf", "/sys/fs/bpf")]
            {
                mount(Some(kind), target, Some(kind), MsFlags::empty(), none)
                    .unwrap_or_else(|e| panic!("mount {kind} on {target}: {e}"));
            }
            fs::create_dir_all("/run/netns").unwrap();
            Namespaces { net: own("net"), mounts: Some(own("mnt")) }
        })
        .with_loopback()
    }

    /// A network namespace that is bound to `path` inside this node's mounts, as a container
    /// runtime creates it for a sandbox. Its loopback device is up.
    pub fn sandbox(&self, path: &Path) -> Namespaces {
        let mounts = self.mounts.clone();
        on_thread(|| {
            self.enter();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::create(path).unwrap();
            let none = None::<&str>;
            mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none).unwrap();
            Namespaces { net: own("net"), mounts: mounts.clone() }
        })
        .with_loopback()
    }

    fn with_loopback(self) -> Namespaces {
        crate::ip(&self, "link set lo up");
        self
    }

    /// A path to the network namespace that is valid in every mount namespace of this machine.
    pub fn net_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }

    /// Runs `f` inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        on_thread(|| {
            self.enter();
            f()
        })
    }

    /// Moves the calling thread inside for the rest of its life.
    fn enter(&self) {
        if let Some(mounts) = &self.mounts {
            // A thread that shares its working directory with others cannot change mounts.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(mounts, CloneFlags::CLONE_NEWNS).unwrap();
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// A program that runs inside. It is killed when the thread that starts it ends, also if the
    /// test process is killed.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let inside = self.clone();
        let mut command = Command::new(program.as_ref());
        // SAFETY: between fork and exec the closure only makes prctl(2) and setns(2) calls with
        // descriptors that are already open; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                set_pdeathsig(Signal::SIGKILL)?;
                if let Some(mounts) = &inside.mounts {
                    setns(mounts, CloneFlags::CLONE_NEWNS)?;
                }
                setns(&inside.net, CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        command
    }
}

fn own(kind: &str) -> Arc<File> {
    Arc::new(File::open(format!("/proc/thread-self/ns/{kind}")).unwrap())
}

fn unshare_or_explain(flags: CloneFlags) {
    unshare(flags).unwrap_or_else(|e| panic!("unshare: {e}: these tests must run as root"));
}

/// Runs `f` on a thread that then ends: a thread that has entered a namespace does nothing else.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
