//! Skipped tests that the tally counts.

use std::io::Write;

/// Reports that a test cannot run on this kernel. libtest hides what a passing test prints; this
/// line is written past its capture, where `cargo xtask test` counts it.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed");
    let mut stdout = std::io::stdout().lock();
    // The line break ends "test name ... ", which libtest writes first with a single thread.
    let _ = write!(stdout, "\nSKIPPED {test}: {reason}\n");
    let _ = stdout.flush();
}
