//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use super::health::Numbers;
use crate::dataplane::counters::Count;

/// Every metric as text.
pub fn render(numbers: &Numbers, counts: &[Count]) -> String {
    let mut out = String::with_capacity(4096);
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let of = |kind: &str, label: &str, value: fn(&Count) -> u64| -> Vec<(String, f64)> {
        counts
            .iter()
            .filter(|c| c.kind == kind)
            .map(|c| (format!("{{{label}=\"{}\"}}", c.label), value(c) as f64))
            .collect()
    };
    let one = |value: f64| [(String::new(), value)];
    family(
        "sluice_dropped_packets_total",
        "counter",
        "Packets dropped or refused, by reason.",
        &of("drop", "reason", |c| c.packets),
    );
    family(
        "sluice_dropped_bytes_total",
        "counter",
        "Bytes dropped or refused, by reason.",
        &of("drop", "reason", |c| c.bytes),
    );
    family(
        "sluice_packets_total",
        "counter",
        "Packets by what became of them.",
        &of("outcome", "outcome", |c| c.packets),
    );
    family(
        "sluice_bytes_total",
        "counter",
        "Bytes by what became of them.",
        &of("outcome", "outcome", |c| c.bytes),
    );
    family(
        "sluice_syncs_total",
        "counter",
        "Rounds of writing tables.",
        &one(numbers.syncs as f64),
    );
    family(
        "sluice_sync_errors_total",
        "counter",
        "Rounds that failed and were tried again.",
        &one(numbers.sync_errors as f64),
    );
    family(
        "sluice_sync_seconds_total",
        "counter",
        "Time spent writing tables.",
        &one(numbers.sync_seconds),
    );
    family(
        "sluice_last_sync_timestamp_seconds",
        "gauge",
        "When everything asked for was last in the kernel.",
        &one(numbers.last_sync),
    );
    family(
        "sluice_ready",
        "gauge",
        "1 once pods can be wired on this node.",
        &one(f64::from(u8::from(numbers.ready))),
    );
    let rows: Vec<_> = numbers
        .rows
        .iter()
        .map(|(table, n)| (format!("{{table=\"{table}\"}}"), *n as f64))
        .collect();
    family("sluice_table_rows", "gauge", "Rows in the kernel's tables.", &rows);
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("sluice_build_info", "gauge", "Version of the agent.", &[(version, 1.0)]);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Health, Pending};
    use super::*;

    #[test]
    fn labels_and_values_are_in_place() {
        let health = Health::default();
        health.synced(Duration::from_millis(5), &Pending::None, vec![("frontends", 3)]);
        let counts =
            [Count { kind: "drop".into(), label: "spoofed_source".into(), packets: 7, bytes: 420 }];
        let text = render(&health.numbers(), &counts);
        for line in [
            "# TYPE sluice_dropped_packets_total counter",
            "sluice_dropped_packets_total{reason=\"spoofed_source\"} 7",
            "sluice_dropped_bytes_total{reason=\"spoofed_source\"} 420",
            "sluice_syncs_total 1",
            "sluice_table_rows{table=\"frontends\"} 3",
            "sluice_ready 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
