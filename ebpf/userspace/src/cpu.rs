//! The CPUs for which the kernel keeps values of per-CPU maps, and what runs on them.

use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// `MEMBARRIER_CMD_GLOBAL` of membarrier(2), kernel 4.3.
const MEMBARRIER_GLOBAL: libc::c_int = 1;
/// Longer than a run of a program, if its CPU is not taken away from it.
const RUN: Duration = Duration::from_millis(2);

/// Waits until every run of a program has ended that began before the call: what it has written is
/// visible then, and what is written before the call is seen by all later runs.
///
/// Programs run in read-side critical sections of RCU, and membarrier(2) waits for a grace period: 5 to
/// 30 ms. It fails if a CPU runs without a tick (EINVAL) and does not wait on a machine with a single CPU;
/// the sleep of 2 ms covers both.
pub fn wait_for_runs() {
    // SAFETY: the call takes no pointers. Its result does not matter, see above.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0) };
    thread::sleep(RUN);
}

/// Number of CPUs for which the kernel keeps per-CPU values
/// (`/sys/devices/system/cpu/possible`). It is read once: the number stays the same until the next boot.
///
/// # Errors
/// The file cannot be read, or is not a list of CPU numbers (`InvalidData`).
pub fn possible_cpus() -> io::Result<usize> {
    static CPUS: OnceLock<usize> = OnceLock::new();
    if let Some(cpus) = CPUS.get() {
        return Ok(*cpus);
    }
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let cpus = parse_cpu_list(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is not a list of CPUs"))
    })?;
    Ok(*CPUS.get_or_init(|| cpus))
}

/// Highest CPU number of a list such as `0-3,5`, plus one. The kernel lays out per-CPU values by
/// CPU number, holes included.
pub fn parse_cpu_list(text: &str) -> Option<usize> {
    let mut highest = 0usize;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last {
            return None;
        }
        highest = highest.max(last);
    }
    highest.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_give_the_highest_number_plus_one() {
        for (text, cpus) in [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-3,5", Some(6)),
            ("0,2-7,9-11", Some(12)),
            ("4-7,0-1", Some(8)),
            ("", None),
            ("0-", None),
            ("3-0", None),
            ("a-b", None),
            ("0-3;5", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(parse_cpu_list(text), cpus, "{text:?}");
        }
    }
}
