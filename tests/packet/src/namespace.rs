//! Network namespaces, for tests that send packets through real devices.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_bpf::netlink::Netlink;

use crate::command;

/// A network namespace that is removed with its devices when this value is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates an empty namespace with loopback up; process id and a counter keep names apart.
    pub fn create(name: &str) -> Namespace {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace =
            Namespace { name: format!("packet-{}-{number}-{name}", std::process::id()) };
        shell(&format!("ip netns add {}", namespace.name));
        namespace.shell("ip link set lo up");
        namespace
    }

    /// Its name for `ip`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script in the namespace.
    pub fn shell(&self, script: &str) -> String {
        self.run(|| shell(script))
    }

    /// Runs a function on a thread in the namespace. Sockets that it returns stay there.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: the descriptor is open; only this thread changes its namespace.
                let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                function()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        command::attempt(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

fn shell(script: &str) -> String {
    command::output(Command::new("sh").args(["-ec", script]))
}

/// Cookie of this thread's network namespace.
///
/// # Panics
/// If the kernel has none.
pub fn netns_cookie() -> u64 {
    let cookie = Netlink::open().unwrap().netns_cookie();
    cookie.expect("this kernel has cookies of network namespaces")
}
