//! Tells when something in a folder changed: by inotify, or by looking each second where its
//! instances are used up (128 a user by default; two kind clusters on one machine take them all).
//!
//! What comes out is only "look again": whoever listens reads the folder anew, so a lost or a
//! doubled message does no harm.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// How long further changes are taken together with the first: editors and `kubectl cp` write a
/// file in several steps.
const QUIET: Duration = Duration::from_millis(30);

/// How often folders are looked at without inotify.
const LOOK: Duration = Duration::from_secs(1);

/// A watch on some folders (not on what lies below their subfolders).
#[derive(Debug)]
pub struct DirWatcher {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Inotify(AsyncFd<Descriptor>),
    Look { folders: Vec<PathBuf>, seen: Mutex<Vec<Entry>> },
}

/// A file as far as a change of it shows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    changed: Option<SystemTime>,
    length: u64,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch folder {folder}")]
pub struct DirWatcherError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

impl DirWatcher {
    /// Starts watching; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If a folder does not exist or cannot be watched.
    pub fn new<'a>(
        folders: impl IntoIterator<Item = &'a Path>,
    ) -> Result<DirWatcher, DirWatcherError> {
        let folders: Vec<PathBuf> = folders.into_iter().map(Path::to_owned).collect();
        match DirWatcher::by_inotify(&folders) {
            Err(e) if matches!(e.source.raw_os_error(), Some(libc::EMFILE | libc::ENOSPC)) => {
                tracing::warn!(error = %e.source, "inotify is used up on this machine: folders are looked at each second");
                DirWatcher::by_looking(folders)
            }
            other => other,
        }
    }

    fn by_looking(folders: Vec<PathBuf>) -> Result<DirWatcher, DirWatcherError> {
        for folder in &folders {
            std::fs::read_dir(folder)
                .map_err(|source| DirWatcherError { folder: folder.clone(), source })?;
        }
        let seen = Mutex::new(look(&folders));
        Ok(DirWatcher { way: Way::Look { folders, seen } })
    }

    fn by_inotify(folders: &[PathBuf]) -> Result<DirWatcher, DirWatcherError> {
        let error = |folder: &Path, e: Errno| DirWatcherError {
            folder: folder.to_owned(),
            source: e.into(),
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| error(Path::new("(inotify)"), e))?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB;
        for folder in folders {
            inotify.add_watch(folder.as_path(), flags).map_err(|e| error(folder, e))?;
        }
        // SAFETY: `Descriptor` owns its file descriptor, and always gives out the same one.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }.map_err(|e| {
            DirWatcherError { folder: PathBuf::from("(inotify)"), source: e.into() }
        })?;
        Ok(DirWatcher { way: Way::Inotify(inotify) })
    }

    /// Returns after the next change, or a burst of them.
    pub async fn changed(&self) {
        match &self.way {
            Way::Inotify(inotify) => {
                if drain(inotify).await {
                    tokio::time::sleep(QUIET).await;
                    // What came meanwhile is part of the same change.
                    let _ = inotify.get_ref().0.read_events();
                } else {
                    // The descriptor is unusable; the caller's clock takes over.
                    std::future::pending::<()>().await;
                }
            }
            Way::Look { folders, seen } => loop {
                tokio::time::sleep(LOOK).await;
                let now = look(folders);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if *seen != now {
                    *seen = now;
                    return;
                }
            },
        }
    }
}

async fn drain(inotify: &AsyncFd<Descriptor>) -> bool {
    loop {
        let Ok(mut ready) = inotify.readable().await else { return false };
        match ready.get_inner().0.read_events() {
            Ok(_) => return true,
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(e) => {
                tracing::warn!(error = %e, "inotify");
                return false;
            }
        }
    }
}

/// Every file of the folders; what cannot be read now counts as absent.
fn look(folders: &[PathBuf]) -> Vec<Entry> {
    let files = folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten();
    let mut entries: Vec<Entry> = files
        .filter_map(|file| {
            let meta = file.metadata().ok()?;
            Some(Entry { path: file.path(), changed: meta.modified().ok(), length: meta.len() })
        })
        .collect();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_renaming_and_removing_are_changes() {
        let dir = tempfile::tempdir().unwrap();
        let folders = vec![dir.path().to_owned()];
        let ways = [
            DirWatcher::new([dir.path()]).unwrap(),
            DirWatcher::by_looking(folders.clone()).unwrap(),
        ];
        for follow in ways {
            let next = || tokio::time::timeout(Duration::from_secs(5), follow.changed());
            std::fs::write(dir.path().join("a"), "1").unwrap();
            next().await.unwrap();
            std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
            next().await.unwrap();
            std::fs::remove_file(dir.path().join("b")).unwrap();
            next().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let e = DirWatcher::new([Path::new("/does/not/exist")]).unwrap_err();
        assert!(e.to_string().contains("/does/not/exist"));
    }
}
