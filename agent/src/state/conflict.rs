//! Services that claim the same address and port, as text.

use sluice_core::dump;
use sluice_core::tables::Conflict;

/// A conflict in one line.
pub fn line(c: &Conflict) -> String {
    let frontend = dump::key(&c.key);
    let losers: Vec<String> = c.losers.iter().map(ToString::to_string).collect();
    format!(
        "{frontend} is used by Service {}, the oldest; not programmed: {}",
        c.winner,
        losers.join(", ")
    )
}
