//! The namespaces that a node, a pod or another host lives in.
//!
//! They are made by a thread that ends at once and are held by open files alone. A closure runs
//! inside on a thread of its own, a program by entering between fork and exec.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, and a mount namespace if it has one of its own.
#[derive(Clone, Debug)]
pub struct Namespaces {
    net: Arc<File>,
    mounts: Option<Arc<File>>,
}

impl Namespaces {
    /// A host that needs no files of its own. Its loopback is up.
    pub fn host() -> Namespaces {
        made_by_a_thread(|| {
            unshare_or_explain(CloneFlags::CLONE_NEWNET);
            Namespaces { net: own("net"), mounts: None }
        })
        .with_loopback()
    }

    /// A node: its own bpffs, /run and /var/lib too.
    pub fn node() -> Namespaces {
        made_by_a_thread(|| {
            unshare_or_explain(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            for (kind, place) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("bpf", "/sys/fs/bpf")]
            {
                mount(Some(kind), place, Some(kind), MsFlags::empty(), none)
                    .unwrap_or_else(|e| panic!("mount {kind} on {place}: {e}"));
            }
            fs::create_dir_all("/run/netns").unwrap();
            Namespaces { net: own("net"), mounts: Some(own("mnt")) }
        })
        .with_loopback()
    }

    /// A network namespace that is bound to `path` inside this node's mounts, as a container
    /// runtime makes it for a sandbox. Its loopback is up.
    pub fn sandbox(&self, path: &Path) -> Namespaces {
        let mounts = self.mounts.clone();
        made_by_a_thread(|| {
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

    /// A path to the network namespace that works from everywhere on this machine.
    pub fn net_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }

    /// Runs `f` inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        made_by_a_thread(|| {
            self.enter();
            f()
        })
    }

    /// Moves the calling thread inside for good.
    fn enter(&self) {
        if let Some(mounts) = &self.mounts {
            // A thread that shares its working directory with others cannot change mounts.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(mounts, CloneFlags::CLONE_NEWNS).unwrap();
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// A program that will run inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let inside = self.clone();
        let mut command = Command::new(program.as_ref());
        // SAFETY: between fork and exec the closure only makes setns(2) calls with descriptors
        // that are already open; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
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
    unshare(flags).unwrap_or_else(|e| panic!("namespaces: {e}: these tests must run as root"));
}

/// Namespaces belong to threads: whoever enters one does so on a thread that then ends.
fn made_by_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
