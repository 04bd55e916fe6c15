//! Tests that cannot run in this cluster.

use std::io::Write;
use std::thread;

/// Reports the calling test as skipped; the test then returns.
///
/// The line is written to standard output itself, which libtest does not capture: `cargo xtask test` counts
/// lines that begin with `SKIPPED`.
pub fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("unnamed").to_owned();
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "\nSKIPPED {name}: {reason}");
    let _ = output.flush();
}
