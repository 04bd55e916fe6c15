//! Services that claim the same address and port, as text.

use sluice_core::dump;
use sluice_core::tables::Conflict;

/// A conflict in one line.
pub fn line(c: &Conflict) -> String {
    let frontend = if c.key.is_node_port() {
        let family = if c.key.addr.is_v4() { "IPv4" } else { "IPv6" };
        format!("{family} NodePort {}/{}", c.key.port.get(), dump::protocol(c.key.proto))
    } else {
        dump::key(&c.key)
    };
    let losers: Vec<String> = c.losers.iter().map(ToString::to_string).collect();
    format!(
        "{frontend} is used by Service {}, which has precedence; not programmed: {}",
        c.winner,
        losers.join(", ")
    )
}
