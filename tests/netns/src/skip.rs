//! Tests that cannot run on this machine.

use std::io::Write;
use std::thread;

/// Reports the calling test as skipped; the test then returns.
///
/// The line is written to standard output itself, which libtest does not capture, and begins on a
/// line of its own: `cargo xtask test` counts lines that begin with `SKIPPED`.
pub fn skip(reason: &str) {
    skip_case(&current_test(), reason);
}

/// Reports one case of a table as skipped.
pub fn skip_case(name: &str, reason: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "\nSKIPPED {name}: {reason}");
    let _ = output.flush();
}

/// Whether this kernel is of this version or a later one.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Name of the test that runs on the calling thread, as libtest names its threads.
pub(crate) fn current_test() -> String {
    thread::current().name().unwrap_or("unnamed").to_owned()
}
