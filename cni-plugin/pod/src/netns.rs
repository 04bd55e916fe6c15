//! A pod's network namespace, from outside.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::thread;

use sluice_bpf::netlink::{Netlink, NetlinkError};

/// Where container runtimes bind the network namespaces of pods.
const RUN_NETNS: &str = "/run/netns";

/// The same folder on the node.
const VAR_RUN_NETNS: &str = "/var/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A path that is not the network namespace of a pod.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// The path does not exist.
    #[error("the network namespace does not exist")]
    Missing,
    /// The file is not a network namespace.
    #[error("the file is not a network namespace")]
    WrongKind(#[source] io::Error),
    /// The path is the caller's own namespace.
    #[error("the path is the network namespace of the node")]
    Own,
    /// The namespace cannot be opened or entered.
    #[error("the network namespace cannot be entered")]
    Io(#[from] io::Error),
    /// No netlink socket can be opened inside.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl NetNs {
    /// Opens the namespace at `path` (a bind mount, or `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// The path does not exist, cannot be opened, or is the caller's own namespace. A file of
    /// another kind fails in [`NetNs::netlink`] only.
    pub fn open(path: &Path) -> Result<NetNs, NetNsError> {
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => NetNsError::Missing,
            _ => NetNsError::Io(e),
        })?;
        let (given, own) = (file.metadata()?, fs::metadata("/proc/self/ns/net")?);
        if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
            return Err(NetNsError::Own);
        }
        Ok(NetNs { file })
    }

    /// Opens a netlink socket inside. A separate thread enters the namespace, opens the socket and
    /// ends, so that no other work runs in the pod's namespace.
    ///
    /// # Errors
    /// The file is not a network namespace, the process may not enter it, or the socket cannot be
    /// opened.
    pub fn netlink(&self) -> Result<Netlink, NetNsError> {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: setns takes a live descriptor and changes this thread only.
                    if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                        let e = io::Error::last_os_error();
                        return Err(match e.raw_os_error() {
                            Some(libc::EINVAL) => NetNsError::WrongKind(e),
                            _ => NetNsError::Io(e),
                        });
                    }
                    Ok(Netlink::open()?)
                })
                .join()
        });
        inside.unwrap_or_else(|_| {
            Err(io::Error::other("the thread inside the namespace panicked").into())
        })
    }

    /// Whether the file is a network namespace. Entering it is not needed.
    fn is_network(&self) -> bool {
        /// `NS_GET_NSTYPE` (include/uapi/linux/nsfs.h).
        const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

        // SAFETY: the descriptor is open, and the request has no argument.
        unsafe { libc::ioctl(self.file.as_raw_fd(), NS_GET_NSTYPE) == libc::CLONE_NEWNET }
    }
}

/// Whether the network namespace of a pod exists: `path` leads to one, and to the one with this cookie.
/// Without a cookie, or if the namespace cannot be entered, every network namespace at `path` counts:
/// the caller would release the address of a running pod otherwise.
pub fn exists(path: &Path, cookie: Option<u64>) -> bool {
    let netns = match NetNs::open(&visible(path)) {
        Ok(netns) => netns,
        Err(NetNsError::Missing | NetNsError::Own) => return false,
        Err(NetNsError::Io(e)) => return e.kind() != io::ErrorKind::NotADirectory,
        Err(_) => return true,
    };
    if !netns.is_network() {
        return false;
    }
    let Some(cookie) = cookie else { return true };
    let found = netns.netlink().ok().and_then(|inside| inside.netns_cookie());
    found.is_none_or(|found| found == cookie)
}

/// Whether the network namespace of a pod can exist, for a process in a container that has the node's
/// `/run/netns` and no other folder of network namespaces: the agent. A path elsewhere, as
/// `/proc/<pid>/ns/net` or `/run/docker/netns/<id>`, shows nothing there, nor does the empty path of a rebuilt
/// lease, or a file on which the mount of the namespace is not visible: the namespace counts as one that
/// exists.
pub fn may_exist(path: &Path, cookie: Option<u64>) -> bool {
    may_exist_in(Path::new(RUN_NETNS), path, cookie)
}

/// `folder` is what the process has as `/run/netns`.
fn may_exist_in(folder: &Path, path: &Path, cookie: Option<u64>) -> bool {
    let below = path.strip_prefix(VAR_RUN_NETNS).or_else(|_| path.strip_prefix(RUN_NETNS));
    let Ok(name) = below else { return true };
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !name.components().all(is_plain) || !folder.is_dir() {
        return true;
    }
    let path = folder.join(name);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(_) => true,
        Ok(_) => match NetNs::open(&path) {
            Ok(netns) if netns.is_network() => exists(&path, cookie),
            _ => true,
        },
    }
}

/// The same path below /run, if it does not exist below /var/run, which is not a link to /run in the
/// agent's image.
pub fn visible(path: &Path) -> Cow<'_, Path> {
    match path.strip_prefix(VAR_RUN_NETNS) {
        Ok(name) if !path.exists() => Path::new(RUN_NETNS).join(name).into(),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A namespace of another kind, a file that remains after its mount, and the node's own namespace
    /// are not the network namespace of a pod.
    #[test]
    fn only_a_network_namespace_other_than_the_nodes_exists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cni-1");
        std::fs::write(&file, "").unwrap();
        let below = file.join("net");
        for path in [
            Path::new(""),
            Path::new("/nonexistent/net"),
            Path::new("/proc/self/ns/net"),
            Path::new("/proc/self/ns/mnt"),
            dir.path(),
            &file,
            &below,
        ] {
            for cookie in [None, Some(7)] {
                assert!(!exists(path, cookie), "{}", path.display());
            }
        }
    }

    #[test]
    fn only_a_name_that_is_missing_in_the_folder_shows_that_a_namespace_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, absent) = (dir.path().join("netns"), dir.path().join("absent"));
        fs::create_dir(&folder).unwrap();
        // Its mount is not visible, or was removed.
        fs::write(folder.join("file"), "").unwrap();
        for (path, exists) in [
            ("/run/netns/cni-1", false),
            ("/var/run/netns/cni-1", false),
            ("", true),
            ("/run/netns/file", true),
            ("/run/netns/file/below", true),
            ("/run/netns/../netns/cni-1", true),
            ("/run/docker/netns/1", true),
            ("/var/run/docker/netns/1", true),
            // Another process of the container, or none.
            ("/proc/1/ns/net", true),
            ("/proc/4194305/ns/net", true),
        ] {
            for cookie in [None, Some(7)] {
                let path = Path::new(path);
                assert_eq!(may_exist_in(&folder, path, cookie), exists, "{}", path.display());
                assert!(may_exist_in(&absent, path, cookie), "{}", path.display());
            }
        }
    }

    #[test]
    fn kind_of_a_namespace_is_known_without_entering_it() {
        let is_network = |path: &str| NetNs { file: File::open(path).unwrap() }.is_network();
        assert!(is_network("/proc/self/ns/net"));
        for other in ["/proc/self/ns/mnt", "/proc/self/ns/uts", "/proc/self/status", "/"] {
            assert!(!is_network(other), "{other}");
        }
    }

    #[test]
    fn path_below_var_run_is_found_below_run() {
        for (path, visible_path) in [
            ("/var/run/netns/absent-1", "/run/netns/absent-1"),
            ("/run/netns/absent-1", "/run/netns/absent-1"),
            ("/var/run/other/absent-1", "/var/run/other/absent-1"),
            ("", ""),
        ] {
            assert_eq!(visible(Path::new(path)), Path::new(visible_path));
        }
    }
}
