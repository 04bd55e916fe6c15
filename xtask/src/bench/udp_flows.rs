//! `cargo xtask bench udp-flows`: new UDP flows from one pod to one host outside, through masquerade
//! on a node of the namespace tests. Prints how many requests were lost.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::isolated;
use crate::cache::Cache;
use crate::{build, setup};

/// Time for the node and the last responses, beside that of the requests.
const MARGIN: Duration = Duration::from_secs(60);

/// Measures and prints the figures.
///
/// # Errors
/// When a build or the measurement fails.
pub fn run(cache: &Cache, rate: u32, seconds: u32) -> Result<ExitCode> {
    setup::require_root()?;
    setup::tests()?;
    let programs = build::programs(cache)?;
    // The client in the pod is a program beside the bench.
    build::static_program(cache, "netns-tests", "netns-peer", "release")?;
    let bench = build::static_program(cache, "netns-tests", "udp-flows-bench", "release")?;
    let arguments = [rate.to_string(), seconds.to_string()];
    let arguments = arguments.each_ref().map(String::as_str);
    let deadline = Duration::from_secs(seconds.into()) + MARGIN;
    let output = isolated::report(&bench, &arguments, programs.environment(), deadline)?;
    println!("{}", summary(&output));
    Ok(ExitCode::SUCCESS)
}

/// The figures in one line.
fn summary(output: &Value) -> String {
    let report = &output["report"];
    let number = |field: &str| report[field].as_f64().unwrap_or(f64::NAN);
    let refused = output["counters"].as_array().into_iter().flatten();
    let refused = refused.filter(|row| row["label"] == "no_snat_port");
    let refused: u64 = refused.filter_map(|row| row["packets"].as_u64()).sum();
    format!(
        "{} requests in {:.0} s: {} lost, {refused} of them without a source port",
        number("requests"),
        number("seconds"),
        number("lost"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_the_losses_and_their_reason() {
        let output = serde_json::json!({
            "report": {"requests": 120_000, "lost": 5, "seconds": 119.9991},
            "counters": [
                {"label": "malformed", "packets": 7},
                {"label": "no_snat_port", "packets": 4},
            ],
        });
        let expected = "120000 requests in 120 s: 5 lost, 4 of them without a source port";
        assert_eq!(summary(&output), expected);
    }
}
