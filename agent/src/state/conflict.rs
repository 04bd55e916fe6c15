//! Services that claim the same address and port, as text.

use sluice_core::dump;
use sluice_core::tables::Conflict;

/// A conflict in one line.
pub fn line(c: &Conflict) -> String {
    let frontend = match std::net::IpAddr::from(c.key.addr) {
        // The key of a NodePort.
        address if address.is_unspecified() => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let (port, protocol) = (c.key.port.get(), dump::protocol(c.key.proto));
            format!("{family} NodePort {port}/{protocol}")
        }
        _ => dump::key(&c.key),
    };
    let losers: Vec<String> = c.losers.iter().map(ToString::to_string).collect();
    format!(
        "{frontend} is used by Service {}, which has precedence; not programmed: {}",
        c.winner,
        losers.join(", ")
    )
}
