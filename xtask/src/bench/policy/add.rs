//! Time from the return of ADD to a pod's first allowed packet: one pod after the other, with the CNI binary
//! called directly and an API server in memory. In a cluster, the runtime starts the container only after
//! ADD has returned, so that its first packet comes too late to show this time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::policies;
use super::report::Add;
use crate::bench::isolated;
use crate::build;
use crate::cache::{Cache, target};
use crate::setup;

/// Deadline of one measurement: creating namespaces takes most of it.
const STEP: Duration = Duration::from_secs(900);

/// Creates `pods` pods for each number of policies.
///
/// # Errors
/// When a build or a measurement fails.
pub fn measure(cache: &Cache, sizes: &[usize], pods: usize) -> Result<Vec<Add>> {
    setup::tests()?;
    let programs = build::programs(cache)?;
    let bench = build::static_program(cache, "netns-tests", "policy-add-bench", "release")?;
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let mut adds = Vec::new();
    for &size in sizes.iter().filter(|size| **size > 0) {
        let file = folder.join(format!("policies-{size}.json"));
        fs::write(&file, serde_json::to_vec(&policies::all(size))?)?;
        let (list, number) = (file.to_string_lossy(), pods.to_string());
        let arguments = [&*list, number.as_str()];
        let report = isolated::report(&bench, &arguments, programs.environment(), STEP);
        fs::remove_file(&file)?;
        let report = report.with_context(|| format!("{pods} pods with {size} policies"))?;
        adds.push(add(size, &report)?);
    }
    Ok(adds)
}

fn add(policies: usize, report: &Value) -> Result<Add> {
    let times = |field: &str| -> Result<Vec<f64>> {
        let times = report[field].as_array().map(|t| t.iter().filter_map(Value::as_f64).collect());
        times.with_context(|| format!("no {field} in the report"))
    };
    Ok(Add {
        policies,
        add_ms: times("add_ms")?,
        near_ms: times("near_ms")?,
        far_ms: times("far_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn report_has_the_times_of_each_pod() {
        let report = json!({"add_ms": [5.0, 6.0], "near_ms": [0.5, 0.7], "far_ms": [2.0, 3.0]});
        let add = add(100, &report).expect("complete");
        assert_eq!((add.policies, add.near_ms), (100, vec![0.5, 0.7]));
        assert!(super::add(100, &json!({"add_ms": []})).is_err());
    }
}
