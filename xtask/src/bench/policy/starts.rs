//! Many pods that start at once and are closed until their policies are programmed.
//!
//! Each runs the load generator, which notes the time of its first instruction and sends datagrams to the
//! servers of both nodes until each has answered. Until the kubelet has written a pod's address into the
//! API, no other node can know it: the server there answers later than that of the own node.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::policies::{ROLE, SELECTED};
use super::report::Starts;
use super::subject::Subject;
use crate::bench::objects;
use crate::{process, progress};

/// Label of the pods.
const LABEL: &str = "starts";
/// Pods that a kubelet runs at most.
const PODS_OF_NODE: usize = 110;
/// Time until all pods run: two cores start a few of them a second.
const RUNNING: Duration = Duration::from_secs(900);
/// Time from then until all have had an answer.
const ANSWERED: Duration = Duration::from_secs(120);

/// Starts so many pods, which `policies` policies select.
///
/// # Errors
/// When the pods do not start in time, or a command fails. Pods without an answer are among the failures.
pub fn measure(
    subject: &Subject,
    program: &Path,
    policies: usize,
    count: usize,
    failures: &mut Vec<String>,
) -> Result<Starts> {
    let free = [free(subject, true)?, free(subject, false)?];
    let [own, other] = split(count, free)?;
    let name = format!("{count} pods");
    let begin = clock(program)?;
    objects::create(&subject.cluster, &name, 0..own + other, |number| {
        vec![pod(subject, number, number < own, policies)]
    })?;
    let selector = format!("{LABEL}=yes");
    progress::wait(&format!("{name} running"), RUNNING, || {
        // `kubectl wait` watches one pod after the other, five in a second.
        let path = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
        let get = ["get", "pod", "-l", &selector, "-o", path];
        let states = subject.cluster.kubectl(&get).map_err(|e| format!("{e:#}"))?;
        match states.split_whitespace().filter(|state| *state == "True").count() {
            ready if ready == own + other => Ok(()),
            ready => Err(format!("{ready} are")),
        }
    })?;
    let reports = progress::wait(&format!("answers of {name}"), ANSWERED, || {
        let logs = ["logs", "-l", &selector, "--tail=1", "--prefix", "--max-log-requests", "250"];
        let text = subject.cluster.kubectl(&logs).map_err(|e| e.to_string())?;
        let reports = reports(&text);
        if reports.len() == count { Ok(reports) } else { Err(format!("{}", reports.len())) }
    })?;
    let starts = Starts::new(begin, reports.into_values());
    for (place, times) in [("own", &starts.own_ms), ("other", &starts.other_ms)] {
        let missing = count - times.len();
        if missing > 0 {
            failures.push(format!("{missing} of {name} got no answer of the {place} node"));
        }
    }
    Ok(starts)
}

/// How many more pods a node can run.
fn free(subject: &Subject, of_client: bool) -> Result<usize> {
    let node = format!("spec.nodeName={}", subject.cluster.node(of_client));
    let pods =
        subject.cluster.kubectl(&["get", "pods", "-A", "--field-selector", &node, "-o", "name"])?;
    Ok(PODS_OF_NODE.saturating_sub(pods.lines().count()))
}

/// Halves, unless one node has no space for it.
fn split(count: usize, [own, other]: [usize; 2]) -> Result<[usize; 2]> {
    ensure!(count <= own + other, "the nodes can run {} more pods", own + other);
    let half = (count / 2).min(own).max(count.saturating_sub(other));
    Ok([half, count - half])
}

/// The monotonic clock of the machine, and so of the containers.
fn clock(program: &Path) -> Result<u64> {
    let text = process::output(Command::new(program).arg("clock"))?;
    text.parse().with_context(|| format!("unexpected output of netbench: {text:?}"))
}

/// A pod of the client's node or of the other one.
fn pod(subject: &Subject, number: usize, of_client: bool, policies: usize) -> Value {
    let targets = format!("{},{}", subject.target(of_client), subject.target(!of_client));
    let labels = json!({LABEL: "yes", ROLE: "client", SELECTED: policies.to_string()});
    let command = ["/netbench", "first", "--targets", &targets];
    subject.pod(&format!("start-{number}"), &labels, of_client, &command)
}

/// The report of each pod, by its name, from the lines `[pod/NAME/main] JSON`.
fn reports(logs: &str) -> BTreeMap<String, Value> {
    let report = |line: &str| {
        let (pod, json) = line.strip_prefix("[pod/")?.split_once("] ")?;
        let report: Value = serde_json::from_str(json).ok()?;
        report["started_ns"].as_u64().map(|_| (pod.to_owned(), report))
    };
    logs.lines().filter_map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_halved_unless_a_node_is_full() {
        assert_eq!(split(200, [106, 101]).ok(), Some([100, 100]));
        assert_eq!(split(200, [106, 97]).ok(), Some([103, 97]));
        assert_eq!(split(200, [95, 108]).ok(), Some([95, 105]));
        assert_eq!(split(3, [9, 9]).ok(), Some([1, 2]));
        assert!(split(200, [100, 99]).is_err());
    }

    #[test]
    fn logs_have_one_report_of_each_pod() {
        let logs = "[pod/start-1/main] {\"started_ns\":5,\"answered_ns\":[7,null]}\n\
                    [pod/start-2/main] starting\nError\n";
        let reports = reports(logs);
        assert_eq!(reports.len(), 1);
        assert_eq!(reports["start-1/main"]["answered_ns"][0], 7);
    }
}
