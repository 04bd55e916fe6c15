//! Network namespaces of pods, which one process enters in turn: so it measures from several pods.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, bail};

/// Where the container runtime mounts the namespaces of a node's pods.
pub const FOLDER: &str = "/run/netns";

/// An address for documentation (RFC 5737), which no pod has.
const FOREIGN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A network namespace.
pub struct Namespace(File);

impl Namespace {
    /// The namespace among those of a folder that has the address. The calling thread has entered it.
    ///
    /// # Errors
    /// When none has the address, or the process may not enter namespaces.
    pub fn find(folder: &Path, address: IpAddr) -> anyhow::Result<Namespace> {
        let name = folder.display();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {name}"))? {
            let namespace = Namespace(File::open(entry?.path())?);
            let has = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
            // A file that is left over is not a namespace. A socket is bound to an address that the namespace has,
            // or to any one if it has none.
            if namespace.enter().is_ok() && has(address) && !has(FOREIGN) {
                return Ok(namespace);
            }
        }
        bail!("no network namespace in {name} that may be entered has {address}")
    }

    /// Lets the calling thread open its next sockets in the namespace. Open sockets stay in theirs.
    ///
    /// # Errors
    /// When the file is not a network namespace, or without CAP_SYS_ADMIN.
    pub fn enter(&self) -> anyhow::Result<()> {
        // SAFETY: the descriptor is open; the call changes the calling thread only.
        let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        let error = if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        error.context("cannot enter a network namespace")
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::thread;

    use super::*;

    /// Runs a test in a thread of its own, which may enter namespaces.
    pub fn in_thread(test: impl FnOnce() + Send) {
        let name = thread::current().name().unwrap_or("unnamed").to_owned();
        let thread = thread::Builder::new().name(name);
        thread::scope(|scope| {
            let test = thread.spawn_scoped(scope, test).expect("a thread");
            test.join().expect("the test succeeds");
        });
    }

    /// Reports the calling test as skipped, in the form that `cargo xtask test` counts.
    pub fn skip() {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let reason = "the process may not create network namespaces";
        // To standard output itself, which libtest does not capture.
        let _ = writeln!(io::stdout().lock(), "\nSKIPPED {name}: {reason}");
    }

    /// Moves the calling thread to a new network namespace without addresses; `None` if it may not.
    fn create_empty() -> Option<Namespace> {
        // SAFETY: the call changes the calling thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return None;
        }
        Some(Namespace(File::open("/proc/thread-self/ns/net").expect("procfs")))
    }

    /// As [`create_empty`]; the loopback device has its address.
    pub fn create() -> Option<Namespace> {
        let namespace = create_empty()?;
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        // SAFETY: a request consists of integers and bytes, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        // SAFETY: the descriptor is open, and the request has a name that ends with zero and flags.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
        assert_eq!(result, 0, "lo up: {}", io::Error::last_os_error());
        Some(namespace)
    }

    #[test]
    fn namespace_is_found_by_an_address_that_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("left-over"), "").expect("written");
        in_thread(|| {
            let (Some(without), Some(with)) = (create_empty(), create()) else { return skip() };
            for (name, namespace) in [("without", &without), ("with", &with)] {
                let file = format!("/proc/self/fd/{}", namespace.0.as_raw_fd());
                std::os::unix::fs::symlink(file, folder.path().join(name)).expect("a link");
            }
            let find = |address: &str| {
                let address = address.parse().expect("valid");
                Namespace::find(folder.path(), address)
            };
            without.enter().expect("the own namespace");
            let found = find("127.0.0.1").expect("one has it").0.metadata().expect("open");
            assert_eq!(found.ino(), with.0.metadata().expect("open").ino());
            assert!(UdpSocket::bind("127.0.0.1:0").is_ok(), "it was entered");
            let error = find("10.0.0.1").err().expect("none has it").to_string();
            assert!(error.ends_with("may be entered has 10.0.0.1"), "{error}");
        });
    }
}
