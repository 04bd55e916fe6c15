//! What follows each answer of the kernel to a batch call: continue, fall back, skip or fail.
//!
//! The calls are closures, so every path runs in a unit test without a kernel.

use std::io;
use std::ops::Range;

use crate::sys::unsupported;

/// Largest number of entries offered to a lookup: a bucket of a hash map must fit whole.
const LOOKUP_MAX: usize = 1 << 24;

/// A batch that changes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `BPF_MAP_UPDATE_BATCH`.
    Update,
    /// `BPF_MAP_DELETE_BATCH`.
    Delete,
}

/// What follows a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Offer the entries that are left.
    Resume,
    /// Process one entry by itself, then offer the rest.
    Single,
    /// Leave one entry out, then offer the rest.
    Skip,
    /// Return the error.
    Fail,
}

/// Number of entries processed by a call that offered `offered` and left `count` in its attribute.
///
/// An error at an entry leaves a smaller `count`. An error before the first entry (unknown command,
/// no memory) leaves `count` as it was; kernels from 6.8 on set it to 0 first.
pub(crate) fn processed(result: &io::Result<()>, count: usize, offered: usize) -> usize {
    match result {
        Ok(()) => offered,
        Err(_) if count >= offered => 0,
        Err(_) => count,
    }
}

fn after(operation: Operation, e: &io::Error, progress: usize) -> Next {
    match e.raw_os_error() {
        Some(libc::ENOENT) if operation == Operation::Delete => Next::Skip,
        Some(libc::EINTR) => Next::Resume,
        // Memory and bucket locks come back; without progress the same call would fail again.
        Some(libc::ENOMEM | libc::EAGAIN | libc::EBUSY) if progress > 0 => Next::Resume,
        _ if unsupported(e) && progress == 0 => Next::Single,
        // An entry was rejected: alone it gets its own error.
        _ if unsupported(e) => Next::Resume,
        _ => Next::Fail,
    }
}

/// Changes `total` entries in order. `batch` offers the entries from the start of a range and
/// returns how many were processed and how the call ended; `single` changes one entry.
pub(crate) fn change_all(
    operation: Operation,
    total: usize,
    mut batch: impl FnMut(Range<usize>) -> (usize, io::Result<()>),
    mut single: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < total {
        let (progress, result) = batch(done..total);
        done += progress;
        let Err(e) = result else { continue };
        match after(operation, &e, progress) {
            Next::Resume => {}
            Next::Skip => done += 1,
            Next::Single => {
                single(done)?;
                done += 1;
            }
            Next::Fail => return Err(e),
        }
    }
    Ok(())
}

/// Reads every entry. `batch` reads up to `size` entries from a cursor (`None`: the start), stores
/// the next cursor, and returns the entries and how the call ended; `sink` receives them. A bucket with more than `size`
/// entries (ENOSPC) is read again with twice the size.
pub(crate) fn read_all<T>(
    mut size: usize,
    cursor_size: usize,
    mut batch: impl FnMut(Option<&[u8]>, &mut [u8], usize) -> (T, io::Result<()>),
    mut sink: impl FnMut(T),
) -> io::Result<()> {
    let (mut cursor, mut next) = (vec![0u8; cursor_size], vec![0u8; cursor_size]);
    let mut first = true;
    loop {
        let from = (!first).then_some(cursor.as_slice());
        let (found, result) = batch(from, &mut next, size);
        match result {
            Ok(()) => sink(found),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOENT) => {
                    sink(found);
                    return Ok(());
                }
                Some(libc::ENOSPC) if size < LOOKUP_MAX => {
                    size *= 2;
                    continue;
                }
                _ => return Err(e),
            },
        }
        std::mem::swap(&mut cursor, &mut next);
        first = false;
    }
}

#[cfg(test)]
mod tests;
