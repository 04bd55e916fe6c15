//! Tells when something in a folder changed (inotify).
//!
//! What comes out is only "look again": whoever listens reads the folder anew, so a lost or a
//! doubled message does no harm.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// How long further changes are taken together with the first: editors and `kubectl cp` write a
/// file in several steps.
const QUIET: Duration = Duration::from_millis(30);

/// A watch on some folders (not on what lies below their subfolders).
#[derive(Debug)]
pub struct Follow {
    inotify: AsyncFd<Descriptor>,
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
pub struct FollowError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

impl Follow {
    /// Starts watching; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If a folder does not exist or inotify's limits are reached.
    pub fn folders<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<Follow, FollowError> {
        let error =
            |folder: &Path, e: Errno| FollowError { folder: folder.to_owned(), source: e.into() };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| error(Path::new("(inotify)"), e))?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB;
        for folder in folders {
            inotify.add_watch(folder, flags).map_err(|e| error(folder, e))?;
        }
        // SAFETY: `Descriptor` owns its file descriptor, and always gives out the same one.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }
            .map_err(|e| FollowError { folder: PathBuf::from("(inotify)"), source: e.into() })?;
        Ok(Follow { inotify })
    }

    /// Returns after the next change, or a burst of them.
    pub async fn changed(&self) {
        if self.drain().await {
            tokio::time::sleep(QUIET).await;
            // What came meanwhile is part of the same change.
            let _ = self.inotify.get_ref().0.read_events();
        } else {
            // The descriptor is unusable; the caller's clock takes over.
            std::future::pending::<()>().await;
        }
    }

    async fn drain(&self) -> bool {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return false };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_renaming_and_removing_are_changes() {
        let dir = tempfile::tempdir().unwrap();
        let follow = Follow::folders([dir.path()]).unwrap();
        let next = || tokio::time::timeout(Duration::from_secs(5), follow.changed());
        std::fs::write(dir.path().join("a"), "1").unwrap();
        next().await.unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        next().await.unwrap();
        std::fs::remove_file(dir.path().join("b")).unwrap();
        next().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let e = Follow::folders([Path::new("/does/not/exist")]).unwrap_err();
        assert!(e.to_string().contains("/does/not/exist"));
    }
}
