//! Times ADD and DEL of the CNI binary against ptp with host-local, in namespaces of its own. Prints
//! one JSON object.
//!
//! ```text
//! cni-add-bench [ROUNDS]           one pod after another, alternating in every round
//! cni-add-bench bursts [ROUNDS]    16 ADDs at once, 50 a second, on a node with 250 pods; and with
//!                                  4,095 leases
//! ```
//! As root, after `cargo xtask build`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

mod bursts;
mod pairs;

use std::path::Path;
use std::time::Duration;

use netns_tests::CniCall;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = |at: usize| arguments.get(at).map(|n| n.parse().expect("[ROUNDS]"));
    let report = match arguments.first().map(String::as_str) {
        Some("bursts") => bursts::run(rounds(1).unwrap_or(bursts::ROUNDS)),
        _ => pairs::run(rounds(0).unwrap_or(pairs::ROUNDS)),
    };
    println!("{report}");
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The call of a reference plugin, which finds its address plugin in the same folder.
fn with_plugin(call: CniCall, plugin: &Path) -> CniCall {
    let folder = plugin.parent().unwrap().display().to_string();
    call.with_binary(plugin).set("CNI_PATH", &folder)
}

/// The value below which `share` of the times are.
fn percentile(mut times: Vec<f64>, share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let rank = (times.len() as f64 * share).ceil() as usize;
    times[rank.clamp(1, times.len()) - 1]
}
