//! Time from a dropped packet to its line in the output of `sluice drops --follow`.
//!
//! ```text
//! netbench send (client's pod)  --datagrams that no policy allows--> dropped on the client's node
//! sluice drops --follow (agent's pod) --kubectl exec--> lines, each with the time of its arrival here
//! ```
//! Both times are of CLOCK_REALTIME, which all containers of a machine share: before a datagram is sent, and when
//! its line has been read. Datagrams have pauses of up to 1.2 s, so that the agent and the command, which both
//! poll, are in every phase. The source port of a datagram, which no other has, finds its line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::policies;
use super::subject::Subject;
use crate::bench::cluster::PORT;
use crate::process::{ProcessTree, QUERY};
use crate::progress;

/// Port that no policy allows.
const DENIED: u16 = PORT + 1;
/// Time until the first line, with the start of the command.
const FIRST: Duration = Duration::from_secs(60);
/// Time in which a line can arrive: those that come later are missing.
const LATEST: Duration = Duration::from_secs(10);

/// A line of `sluice drops --follow`.
struct Line {
    /// When it arrived, in nanoseconds since 1970.
    at: u64,
    row: Value,
}

/// The command, which ends when this is dropped.
struct Follower {
    tree: ProcessTree,
    lines: Receiver<Line>,
}

impl Follower {
    fn start(subject: &Subject) -> Result<Follower> {
        let mut command = subject.follow_drops();
        let mut tree = ProcessTree::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let output = tree.child().stdout.take().context("output of the command")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                let line = Line { at: now(), row: serde_json::from_str(&text).unwrap_or_default() };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Follower { tree, lines })
    }

    /// Lines that arrive until all datagrams have one, at the longest for this time.
    fn lines(&self, sent: &[Sent], timeout: Duration) -> Vec<Line> {
        let (end, mut lines) = (Instant::now() + timeout, Vec::new());
        while !sent.iter().all(|sent| sent.find(&lines).is_some()) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            lines.push(line);
        }
        lines
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tree.kill();
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Sends `count` datagrams that the policies deny, of which so many select the pods; returns the times until their
/// lines in milliseconds.
///
/// # Errors
/// When a command fails or prints something else. Datagrams without a line, or with a line that does not name the
/// pods and the policy, are among the failures.
pub fn measure(
    subject: &Subject,
    policies: usize,
    count: usize,
    failures: &mut Vec<String>,
) -> Result<Vec<f64>> {
    let follower = Follower::start(subject)?;
    progress::wait("lines of drops", FIRST, || {
        let sent = send(subject, 1).map_err(|error| format!("{error:#}"))?;
        let lines = follower.lines(&sent, Duration::from_secs(5));
        sent.iter().all(|sent| sent.find(&lines).is_some()).then_some(()).ok_or("none".to_owned())
    })?;
    let sent = send(subject, count)?;
    let lines = follower.lines(&sent, LATEST);
    let (mut times, mut wrong, mut missing) = (Vec::new(), 0, 0);
    for sent in &sent {
        match sent.find(&lines) {
            Some(line) if names_ends_and_policy(&line.row, policies) => {
                times.push((line.at - sent.at) as f64 / 1e6);
            }
            Some(_) => wrong += 1,
            None => missing += 1,
        }
    }
    for (number, what) in [(missing, "have no line"), (wrong, "have a line with other names")] {
        if number > 0 {
            failures.push(format!("{number} of {count} dropped packets {what}"));
        }
    }
    Ok(times)
}

/// A datagram.
struct Sent {
    /// When it was sent, in nanoseconds since 1970.
    at: u64,
    port: u16,
}

impl Sent {
    fn parse(json: &Value) -> Option<Sent> {
        let port = json["port"].as_u64()?.try_into().ok()?;
        Some(Sent { at: json["unix_ns"].as_u64()?, port })
    }

    /// Its line, which is not earlier.
    fn find<'a>(&self, lines: &'a [Line]) -> Option<&'a Line> {
        let is_own = |line: &&Line| line.row["sourcePort"] == self.port && line.at >= self.at;
        lines.iter().find(is_own)
    }
}

/// Sends datagrams from the client to the server on its node.
fn send(subject: &Subject, count: usize) -> Result<Vec<Sent>> {
    let target = format!("{}:{DENIED}", subject.cluster.server(true).pod);
    let words = ["send", "--target", &target, "--count", &count.to_string()];
    // A pause is at most 1.2 s.
    let deadline = QUERY + Duration::from_secs(2) * u32::try_from(count)?;
    let report = subject.cluster.in_client(&words, deadline)?;
    let sent = report.as_array().map(|sent| sent.iter().map(Sent::parse).collect());
    sent.flatten().ok_or_else(|| anyhow!("unexpected output of netbench: {report}"))
}

/// Whether a line is that of a datagram from the client to the server, dropped by the policies of the client, and
/// names both pods and the policy that isolates the client.
fn names_ends_and_policy(row: &Value, policies: usize) -> bool {
    let allowing = format!("default/{}", policies::allow(policies));
    let names = row["policies"].as_array().map_or(&[][..], Vec::as_slice);
    row["reason"] == "policy_egress"
        && row["protocol"] == "UDP"
        && row["destinationPort"] == DENIED
        && row["sourcePods"][0]["pod"] == "default/client"
        && row["destinationPods"][0]["pod"] == "default/near"
        && row["pod"] == "default/client"
        && names.iter().any(|name| *name == allowing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> Value {
        json!({
            "reason": "policy_egress", "protocol": "UDP", "sourcePort": 40_000,
            "destinationPort": DENIED, "sourcePods": [{"pod": "default/client"}],
            "destinationPods": [{"pod": "default/near"}], "pod": "default/client",
            "policies": ["default/allow-1"],
        })
    }

    #[test]
    fn line_names_both_pods_and_the_policy() {
        assert!(names_ends_and_policy(&row(), 1));
        assert!(!names_ends_and_policy(&row(), 100));
        for (field, other) in [
            ("reason", json!("policy_ingress")),
            ("destinationPort", json!(PORT)),
            ("sourcePods", json!([])),
            ("destinationPods", json!([{"pod": "default/far"}])),
            ("pod", json!(null)),
            ("policies", json!(null)),
        ] {
            let mut row = row();
            row[field] = other;
            assert!(!names_ends_and_policy(&row, 1), "{field}");
        }
    }

    #[test]
    fn line_of_a_datagram_has_its_port_and_is_later() {
        let sent = Sent::parse(&json!({"unix_ns": 1_000, "port": 40_000})).expect("valid");
        let line = |at, port| Line { at, row: json!({"sourcePort": port}) };
        // A former datagram had the same port.
        let lines = [line(900, 40_000), line(1_100, 40_001), line(1_200, 40_000)];
        assert_eq!(sent.find(&lines).map(|line| line.at), Some(1_200));
        assert!(sent.find(&lines[..2]).is_none());
        assert!(Sent::parse(&json!({"unix_ns": 1, "port": 70_000})).is_none());
    }
}
