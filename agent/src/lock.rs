//! One writer per node: a lock that the agent holds while it runs, and `sluice cleanup` while it
//! removes.
//!
//! Two agents would replace each other's programs, slots and ids. The lock is an flock on a file, so
//! it ends with the process; the content of the file names the holder.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, io, process, thread};

use jiff::Timestamp;

/// Name of the file.
const FILE: &str = "lock";

/// How long a process waits for a predecessor that ends.
pub const WAIT: Duration = Duration::from_secs(5);

/// Interval between two attempts.
const INTERVAL: Duration = Duration::from_millis(50);

/// The lock; released when it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is locked by another process: {holder}; nothing was changed. Stop that process first",
        path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// Process id, start time and command.
        holder: String,
    },
    /// The file cannot be created, locked or written.
    #[error("lock {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock in `dir`; waits up to `wait` for its holder.
    ///
    /// # Errors
    /// Another process holds it, or the file is not accessible.
    pub fn take(dir: &Path, wait: Duration) -> Result<Lock, LockError> {
        Lock::take_unless(dir, wait, || false)
    }

    /// As [`Lock::take`], but ends the wait when `is_stopping` returns true.
    ///
    /// # Errors
    /// Another process holds it, or the file is not accessible.
    pub fn take_unless(
        dir: &Path,
        wait: Duration,
        is_stopping: impl Fn() -> bool,
    ) -> Result<Lock, LockError> {
        let path = dir.join(FILE);
        let fail = |source| LockError::Io { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(fail)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(fail(e)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline && !is_stopping() => {
                    thread::sleep(INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    let holder = match holder.trim() {
                        "" => "unknown".to_owned(),
                        known => known.to_owned(),
                    };
                    return Err(LockError::Held { path, holder });
                }
            }
        }
        let identity = identity();
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(identity.as_bytes())
        };
        write().map_err(fail)?;
        Ok(Lock { _file: file })
    }
}

/// This process in one line. The process id is the one in its own namespace.
fn identity() -> String {
    let command: Vec<String> =
        env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "pid {} on {}, started at {:.0}, command {:?}\n",
        process::id(),
        host.trim(),
        Timestamp::now(),
        command.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_and_the_first_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("sluice");
        let first = Lock::take(&run, Duration::ZERO).unwrap();
        let error = Lock::take(&run, Duration::ZERO).unwrap_err().to_string();
        for words in [&format!("pid {} on ", process::id()), "started at 2", "command", "sluice"] {
            assert!(error.contains(words), "{words} in {error}");
        }
        drop(first);
        Lock::take(&run, Duration::ZERO).unwrap();
    }

    #[test]
    fn lock_is_taken_when_its_holder_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), Duration::ZERO).unwrap();
        let second = thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(dir.path(), 10 * WAIT));
            drop(first);
            second.join().unwrap()
        });
        assert!(second.is_ok());
    }

    #[test]
    fn process_that_is_to_stop_does_not_wait_for_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Lock::take(dir.path(), Duration::ZERO).unwrap();
        let started = Instant::now();
        let second = Lock::take_unless(dir.path(), 10 * WAIT, || true);
        assert!(matches!(second, Err(LockError::Held { .. })), "{second:?}");
        assert!(started.elapsed() < WAIT);
    }

    #[test]
    fn error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Lock::take(&dir.path().join("file"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().starts_with("lock /"), "{error}");
    }
}
