//! Waits for changes in directories: with inotify, or by polling when the inotify instances of the
//! user are exhausted (128 by default, which two kind clusters on one machine use up).
//!
//! The only output is "something changed": the caller reads the directory again, so a lost or a
//! repeated notification is harmless.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, future, io};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::paths::STAGED_SUFFIX;

/// Time in which further changes are merged with the first: editors and `kubectl cp` write a file
/// in several steps.
const DEBOUNCE: Duration = Duration::from_millis(30);

/// Interval of polling.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Errors that concern the inotify instance and not one of the directories.
const INSTANCE: &str = "(inotify instance)";

/// A watch on directories, without their subdirectories.
#[derive(Debug)]
pub struct DirWatcher {
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Inotify(AsyncFd<Descriptor>),
    Polling { dirs: Vec<PathBuf>, seen: Mutex<Vec<Entry>> },
}

/// The properties of a file that show a change.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    changed: Option<SystemTime>,
    length: u64,
}

#[derive(Debug)]
struct Descriptor(Inotify);

/// A directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch directory {dir}")]
pub struct DirWatcherError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

impl DirWatcherError {
    fn new(dir: impl Into<PathBuf>, source: impl Into<io::Error>) -> DirWatcherError {
        DirWatcherError { dir: dir.into(), source: source.into() }
    }

    /// Whether the inotify instances or watches of the user are exhausted.
    fn is_exhausted(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EMFILE | libc::ENOSPC))
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl DirWatcher {
    /// Starts to watch `dirs`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A directory does not exist or cannot be watched.
    pub fn new<'a>(
        dirs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<DirWatcher, DirWatcherError> {
        let dirs: Vec<PathBuf> = dirs.into_iter().map(Path::to_owned).collect();
        match DirWatcher::inotify(&dirs) {
            Err(e) if e.is_exhausted() => {
                tracing::warn!(
                    dirs = ?dirs,
                    error = %e.source,
                    "inotify is exhausted, falling back to polling every {POLL_INTERVAL:?}"
                );
                DirWatcher::polling(dirs)
            }
            result => result,
        }
    }

    fn inotify(dirs: &[PathBuf]) -> Result<DirWatcher, DirWatcherError> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| DirWatcherError::new(INSTANCE, e))?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB;
        for dir in dirs {
            inotify
                .add_watch(dir.as_path(), flags)
                .map_err(|e| DirWatcherError::new(dir.clone(), e))?;
        }
        // SAFETY: `Descriptor` owns its file descriptor and always returns the same one.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }
            .map_err(|e| DirWatcherError::new(INSTANCE, e))?;
        Ok(DirWatcher { backend: Backend::Inotify(inotify) })
    }

    fn polling(dirs: Vec<PathBuf>) -> Result<DirWatcher, DirWatcherError> {
        for dir in &dirs {
            fs::read_dir(dir).map_err(|e| DirWatcherError::new(dir.clone(), e))?;
        }
        let seen = Mutex::new(entries(&dirs));
        Ok(DirWatcher { backend: Backend::Polling { dirs, seen } })
    }

    /// Waits for the next change; changes in close succession are one.
    pub async fn changed(&self) {
        match &self.backend {
            Backend::Inotify(inotify) => {
                if let Err(e) = next_event(inotify).await {
                    tracing::warn!(error = %e, "inotify failed, changes are found by the periodic re-read only");
                    future::pending::<()>().await;
                }
                sleep(DEBOUNCE).await;
                // Events of the debounce time belong to the same change.
                let _ = inotify.get_ref().0.read_events();
            }
            Backend::Polling { dirs, seen } => loop {
                sleep(POLL_INTERVAL).await;
                let now = entries(dirs);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if *seen != now {
                    *seen = now;
                    return;
                }
            },
        }
    }
}

/// Waits for an event and reads all that are queued.
async fn next_event(inotify: &AsyncFd<Descriptor>) -> io::Result<()> {
    loop {
        let mut ready = inotify.readable().await?;
        match ready.get_inner().0.read_events() {
            Ok(events) if events.iter().all(is_own) => {}
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether an event is about a file that the agent writes before it renames it: each attempt to write to
/// a full disk would lead to the next one.
fn is_own(event: &InotifyEvent) -> bool {
    event.name.as_deref().is_some_and(is_staged)
}

fn is_staged(name: &OsStr) -> bool {
    name.to_string_lossy().ends_with(STAGED_SUFFIX)
}

/// All files of the directories, sorted. A directory or file that cannot be read is left out.
fn entries(dirs: &[PathBuf]) -> Vec<Entry> {
    let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut entries: Vec<Entry> = files
        .filter(|file| !is_staged(&file.file_name()))
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
    use tokio::time::timeout;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    async fn reports_every_change(watcher: DirWatcher, dir: &Path) {
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, "1").unwrap();
        timeout(WAIT, watcher.changed()).await.expect("a new file");
        fs::write(&a, "12").unwrap();
        timeout(WAIT, watcher.changed()).await.expect("new content");
        fs::rename(&a, &b).unwrap();
        timeout(WAIT, watcher.changed()).await.expect("a new name");
        fs::remove_file(&b).unwrap();
        timeout(WAIT, watcher.changed()).await.expect("a removed file");
        // An attempt to replace a file that fails.
        let staged = dir.join(format!("a{STAGED_SUFFIX}"));
        fs::write(&staged, "1").unwrap();
        fs::remove_file(&staged).unwrap();
        // One that an agent left behind, or is writing.
        fs::write(dir.join(format!("b{STAGED_SUFFIX}")), "1").unwrap();
        let quiet = timeout(POLL_INTERVAL + DEBOUNCE, watcher.changed()).await;
        assert!(quiet.is_err(), "reported without a change");
    }

    #[tokio::test]
    async fn inotify_reports_every_change() {
        let dir = tempfile::tempdir().unwrap();
        reports_every_change(DirWatcher::new([dir.path()]).unwrap(), dir.path()).await;
    }

    #[tokio::test]
    async fn polling_reports_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = DirWatcher::polling(vec![dir.path().to_owned()]).unwrap();
        reports_every_change(watcher, dir.path()).await;
    }

    #[tokio::test]
    async fn error_names_the_missing_directory() {
        let missing = Path::new("/does/not/exist");
        for result in [DirWatcher::new([missing]), DirWatcher::polling(vec![missing.to_owned()])] {
            let e = result.unwrap_err();
            assert!(e.to_string().contains("/does/not/exist"), "{e}");
            assert!(!e.is_exhausted());
        }
    }

    #[test]
    fn polling_replaces_exhausted_inotify_only() {
        for (errno, exhausted) in
            [(Errno::EMFILE, true), (Errno::ENOSPC, true), (Errno::EACCES, false)]
        {
            assert_eq!(DirWatcherError::new(INSTANCE, errno).is_exhausted(), exhausted, "{errno}");
        }
    }
}
