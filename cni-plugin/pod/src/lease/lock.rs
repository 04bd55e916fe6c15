//! The lock of the store: one writer, a wait with an end, and an error that names the holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::boot_instant::uptime;

/// Longest content of a lock file that is read.
const HOLDER_MAX: u64 = 512;

/// Time between two attempts of [`poll`].
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How a lock that is not free is waited for; fails with `TimedOut` after a time.
pub(super) type Wait = fn(&File, Duration) -> io::Result<()>;

/// Locks the file at `path`, which is created if it does not exist, and writes who holds it since when: the
/// seconds since boot from `clock`, read once the file is locked. The lock ends with the returned file, or
/// with the process.
///
/// # Errors
/// `TimedOut`, with the present holder, if the lock is not free within `patience`; otherwise the file
/// cannot be created or locked.
pub(super) fn lock(
    path: &Path,
    holder: &str,
    clock: impl FnOnce() -> io::Result<u64>,
    patience: Duration,
    wait: Wait,
) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => wait(&file, patience).map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => io::Error::new(e.kind(), timeout(path, patience)),
            _ => e,
        })?,
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // Without its text the lock still works.
    let _ = clock().and_then(|now| write_holder(&file, holder, now));
    Ok(file)
}

/// Waits in a thread of its own: flock(2) has no timeout. After a timeout the thread stays until the
/// lock is free, and releases it at once: for processes that end then.
pub(super) fn wait(file: &File, patience: Duration) -> io::Result<()> {
    // The same open file description: the lock of the copy is the lock of the file.
    let copy = file.try_clone()?;
    let (done, result) = mpsc::sync_channel(0);
    thread::spawn(move || {
        let locked = copy.lock();
        if done.send(locked).is_err() {
            let _ = copy.unlock();
        }
    });
    result.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tries again and again, which leaves no thread behind: for processes that go on.
pub(super) fn poll(file: &File, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < patience {
        thread::sleep(POLL_INTERVAL);
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Locks one byte of the file at `path`: calls for one attachment run after each other, those for
/// others at the same time, and no file is left. The lock ends with the returned file, or with the
/// process.
///
/// # Errors
/// `TimedOut` if the byte is not free within `patience`; otherwise the file cannot be created or
/// locked.
pub(super) fn lock_byte(path: &Path, byte: u32, patience: Duration) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match set_byte(&file, byte, libc::F_WRLCK, libc::F_OFD_SETLK) {
        Ok(()) => return Ok(file),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        Err(e) => return Err(e),
    }
    let copy = file.try_clone()?;
    let (done, result) = mpsc::sync_channel(0);
    thread::spawn(move || {
        let locked = set_byte(&copy, byte, libc::F_WRLCK, libc::F_OFD_SETLKW);
        if done.send(locked).is_err() {
            let _ = set_byte(&copy, byte, libc::F_UNLCK, libc::F_OFD_SETLK);
        }
    });
    let timeout = || {
        let seconds = patience.as_secs();
        let text = format!("another call for this container has run for more than {seconds} s");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    result.recv_timeout(patience).unwrap_or_else(|_| Err(timeout())).map(|()| file)
}

/// One request of fcntl(2) for an open file description lock.
fn set_byte(file: &File, byte: u32, kind: i32, command: i32) -> io::Result<()> {
    // SAFETY: the struct contains integers only.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = byte.into();
    range.l_len = 1;
    // SAFETY: the descriptor is open, and the struct is valid during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn write_holder(mut file: &File, holder: &str, now: u64) -> io::Result<()> {
    file.rewind()?;
    let text = format!("{now} {} {holder}\n", std::process::id());
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn timeout(path: &Path, patience: Duration) -> String {
    let waited = format!("not free within {} s", patience.as_secs());
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(HOLDER_MAX).read_to_string(&mut text));
    match (read, uptime()) {
        (Ok(_), Ok(now)) => match parse_holder(&text) {
            Some((since, pid, holder)) => {
                let held = now.saturating_sub(since);
                format!("{waited}; {holder} (pid {pid}) has held it for {held} s")
            }
            None => format!("{waited}; the holder is unknown"),
        },
        _ => waited,
    }
}

fn parse_holder(text: &str) -> Option<(u64, u32, &str)> {
    let mut parts = text.trim_end().splitn(3, ' ');
    let (since, pid, holder) = (parts.next()?, parts.next()?, parts.next()?);
    Some((since.parse().ok()?, pid.parse().ok()?, holder))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Barrier;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_timeout_names_the_holder_and_how_long_it_has_held_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // A longer text of an earlier holder leaves no remains.
        let long = "ADD of a pod with a very long name".repeat(4);
        drop(lock(&path, &long, uptime, LONG, wait).unwrap());
        let earlier = || Ok(uptime()?.saturating_sub(31));
        let held = lock(&path, "ADD of pod shop/web-0", earlier, LONG, wait).unwrap();
        for wait in [wait as Wait, poll] {
            let error = lock(&path, "DEL", uptime, Duration::from_millis(1), wait).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let text = error.to_string();
            let expected =
                format!("ADD of pod shop/web-0 (pid {}) has held it for 3", std::process::id());
            assert!(text.contains(&expected) && text.ends_with(" s"), "{text}");
        }
        // The waiter that gave up does not keep the lock.
        drop(held);
        drop(lock(&path, "DEL", uptime, LONG, wait).unwrap());
    }

    #[test]
    fn calls_of_one_attachment_exclude_each_other_and_those_of_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attachments");
        let held = lock_byte(&path, 7, LONG).unwrap();
        drop(lock_byte(&path, 8, LONG).unwrap());
        let error = lock_byte(&path, 7, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(held);
        drop(lock_byte(&path, 7, LONG).unwrap());
    }

    #[test]
    fn a_lock_is_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for wait in [wait as Wait, poll] {
            let held = lock(&path, "first", uptime, LONG, wait).unwrap();
            let ready = Barrier::new(2);
            thread::scope(|scope| {
                let second = scope.spawn(|| {
                    ready.wait();
                    lock(&path, "second", uptime, LONG, wait)
                });
                ready.wait();
                drop(held);
                second.join().unwrap().unwrap();
            });
            assert!(std::fs::read_to_string(&path).unwrap().ends_with(" second\n"));
        }
    }
}
