//! Batches against a kernel with injected failures.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::sys::ENOTSUPP;

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

#[test]
fn each_error_has_one_continuation() {
    use Next::{Fail, Resume, Single, Skip};
    use Operation::{Delete, Update};
    for (operation, e, progress, expected) in [
        (Update, libc::ENOENT, 0, Fail),
        (Update, libc::ENOENT, 3, Fail),
        (Delete, libc::ENOENT, 0, Skip),
        (Delete, libc::ENOENT, 3, Skip),
        (Update, libc::EINTR, 0, Resume),
        (Update, libc::ENOMEM, 0, Fail),
        (Update, libc::ENOMEM, 1, Resume),
        (Update, libc::EAGAIN, 0, Fail),
        (Update, libc::EAGAIN, 1, Resume),
        (Delete, libc::EBUSY, 0, Fail),
        (Delete, libc::EBUSY, 1, Resume),
        (Update, ENOTSUPP, 0, Single),
        (Delete, ENOTSUPP, 0, Single),
        (Update, libc::EOPNOTSUPP, 0, Single),
        (Update, libc::EINVAL, 0, Single),
        (Update, libc::EINVAL, 5, Resume),
        (Update, libc::E2BIG, 0, Fail),
        (Update, libc::E2BIG, 5, Fail),
        (Update, libc::ENOSPC, 5, Fail),
        (Update, libc::EPERM, 0, Fail),
    ] {
        assert_eq!(after(operation, &errno(e), progress), expected, "{operation:?} {e} {progress}");
    }
}

#[test]
fn a_call_that_fails_before_its_first_entry_made_no_progress() {
    // Kernels before 6.8 leave `count` untouched when they have no memory for a key.
    assert_eq!(processed(&Err(errno(libc::ENOMEM)), 10, 10), 0);
    assert_eq!(processed(&Err(errno(ENOTSUPP)), 10, 10), 0);
    assert_eq!(processed(&Err(errno(libc::ENOMEM)), 4, 10), 4);
    assert_eq!(processed(&Err(errno(libc::ENOENT)), 0, 10), 0);
    assert_eq!(processed(&Ok(()), 10, 10), 10);
}

/// A map that fails at the entries in `faults`, once each (`lasting`: every time), and processes
/// at most `step` entries per call.
struct Kernel {
    faults: Vec<(usize, i32)>,
    lasting: bool,
    step: usize,
    done: Vec<usize>,
    singles: Vec<usize>,
}

impl Kernel {
    fn new(faults: &[(usize, i32)], lasting: bool) -> Kernel {
        let (done, singles) = (Vec::new(), Vec::new());
        Kernel { faults: faults.to_vec(), lasting, step: 4, done, singles }
    }

    fn batch(&mut self, range: Range<usize>) -> (usize, io::Result<()>) {
        let end = range.end.min(range.start + self.step);
        for n in range.start..end {
            if let Some(at) = self.faults.iter().position(|(entry, _)| *entry == n) {
                let (_, e) = self.faults[at];
                if !self.lasting {
                    self.faults.remove(at);
                }
                return (n - range.start, Err(errno(e)));
            }
            self.done.push(n);
        }
        (end - range.start, Ok(()))
    }

    fn run(&mut self, operation: Operation, total: usize) -> io::Result<()> {
        let mut singles = Vec::new();
        let result = change_all(
            operation,
            total,
            |range| self.batch(range),
            |n| {
                singles.push(n);
                Ok(())
            },
        );
        self.singles = singles;
        result
    }
}

#[test]
fn every_entry_is_offered_once_and_in_order() {
    for total in [0, 1, 3, 4, 5, 8, 11] {
        let mut kernel = Kernel::new(&[], false);
        kernel.run(Operation::Update, total).unwrap();
        assert_eq!(kernel.done, (0..total).collect::<Vec<_>>());
        assert_eq!(kernel.singles, []);
    }
}

#[test]
fn a_batch_without_memory_is_resumed_at_the_entry_that_failed() {
    let mut kernel = Kernel::new(&[(2, libc::ENOMEM), (7, libc::EINTR)], false);
    kernel.run(Operation::Update, 10).unwrap();
    assert_eq!(kernel.done, (0..10).collect::<Vec<_>>());
    let mut kernel = Kernel::new(&[(0, libc::ENOMEM)], false);
    let error = kernel.run(Operation::Update, 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(kernel.done, []);
}

#[test]
fn absent_keys_are_skipped_by_deletion_only() {
    let mut kernel = Kernel::new(&[(0, libc::ENOENT), (5, libc::ENOENT), (9, libc::ENOENT)], true);
    kernel.run(Operation::Delete, 10).unwrap();
    assert_eq!(kernel.done, [1, 2, 3, 4, 6, 7, 8]);
    let mut kernel = Kernel::new(&[(5, libc::ENOENT)], true);
    let error = kernel.run(Operation::Update, 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(kernel.done, [0, 1, 2, 3, 4]);
}

#[test]
fn a_map_without_batches_is_changed_entry_by_entry() {
    let mut calls = Vec::new();
    let unsupported = |_: Range<usize>| (0, Err(errno(ENOTSUPP)));
    change_all(Operation::Update, 3, unsupported, |n| {
        calls.push(n);
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, [0, 1, 2]);
    let full = |n| if n == 1 { Err(errno(libc::E2BIG)) } else { Ok(()) };
    let error = change_all(Operation::Update, 3, unsupported, full).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
}

#[test]
fn an_entry_that_is_rejected_inside_a_batch_gets_its_own_call() {
    let mut kernel = Kernel::new(&[(6, libc::EINVAL)], true);
    kernel.run(Operation::Update, 10).unwrap();
    assert_eq!(kernel.singles, [6]);
    assert_eq!(kernel.done, [0, 1, 2, 3, 4, 5, 7, 8, 9]);
}

/// Reads buckets of these sizes; returns the entries (bucket numbers) and the sizes offered.
fn read(buckets: &[usize], mut size: usize, end: i32) -> (io::Result<Vec<usize>>, Vec<usize>) {
    let mut offered = Vec::new();
    size = size.max(1);
    let mut all = Vec::new();
    let batch = |from: Option<&[u8]>, next: &mut [u8], size| {
        offered.push(size);
        let bucket = from.map_or(0, |cursor| usize::from(cursor[0]));
        next[0] = bucket as u8 + 1;
        match buckets.get(bucket) {
            Some(n) if *n > size => (Vec::new(), Err(errno(libc::ENOSPC))),
            Some(n) if bucket + 1 == buckets.len() => (vec![bucket; *n], Err(errno(end))),
            Some(n) => (vec![bucket; *n], Ok(())),
            None => (Vec::new(), Err(errno(libc::EFAULT))),
        }
    };
    let result = read_all(size, 8, batch, |found| all.extend(found));
    (result.map(|()| all), offered)
}

#[test]
fn a_bucket_larger_than_the_buffer_is_read_again_with_a_larger_one() {
    let (entries, offered) = read(&[1, 5, 0, 2], 2, libc::ENOENT);
    assert_eq!(entries.unwrap(), [0, 1, 1, 1, 1, 1, 3, 3]);
    assert_eq!(offered, [2, 2, 4, 8, 8, 8]);
}

#[test]
fn the_last_answer_carries_entries_and_other_errors_do_not() {
    let (entries, _) = read(&[2], 4, libc::ENOENT);
    assert_eq!(entries.unwrap(), [0, 0]);
    let (error, _) = read(&[2, 2], 4, libc::EINTR);
    assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EINTR));
}

#[test]
fn a_buffer_stops_growing() {
    let mut calls = 0;
    let batch = |_: Option<&[u8]>, _: &mut [u8], _| {
        calls += 1;
        ((), Err(errno(libc::ENOSPC)))
    };
    let error = read_all(LOOKUP_MAX / 2, 8, batch, |()| ());
    assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(calls, 2);
}
