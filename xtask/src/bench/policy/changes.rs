//! Time from a change in the API until the programs follow it.
//!
//! ```text
//! netbench write (on the machine) --PATCH--> kubectl proxy --> API server --watch--> agent --> maps
//! netbench probe (client's pod)   --a datagram each millisecond--> server on the same node
//! ```
//! Both print times of one clock. Writes take turns: the first forbids the datagrams, the next allows them.
//! A change takes effect when the first datagram with the other outcome is sent, so the result is up to a
//! millisecond too long.

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::policies::{self, ROLE};
use super::report::Change;
use super::subject::Subject;
use crate::bench::cluster::PORT;
use crate::cache::target;
use crate::process::{self, ProcessTree, QUERY};
use crate::progress::{self, Reporter};

/// Time before each write; the change before it has long acted.
const PAUSE: Duration = Duration::from_millis(300);
/// Longest time of a write that the probe allows for, on average.
const WRITE: Duration = Duration::from_millis(100);
/// Time before the first write and after the last.
const MARGIN: Duration = Duration::from_secs(5);
/// Interval of the datagrams in nanoseconds.
const INTERVAL: u64 = 1_000_000;

/// `kubectl proxy`, which ends when this is dropped.
struct Proxy {
    tree: ProcessTree,
    socket: std::path::PathBuf,
}

impl Proxy {
    fn start(subject: &Subject) -> Result<Proxy> {
        // Paths of sockets are short; the folder of the target may not be.
        let socket = std::env::temp_dir().join(format!("sluice-proxy-{}", std::process::id()));
        let mut command = subject.cluster.command("kubectl");
        command.args(["proxy", "--unix-socket"]).arg(&socket);
        let tree = ProcessTree::start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let proxy = Proxy { tree, socket };
        progress::wait("kubectl proxy", Duration::from_secs(30), || {
            if proxy.socket.exists() { Ok(()) } else { Err("no socket".to_owned()) }
        })?;
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tree.kill();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Makes `count` changes of a label and `count` of a policy; returns the times of each kind.
///
/// # Errors
/// When a program fails. A change that was not observed is among the failures.
pub fn measure(
    subject: &Subject,
    program: &Path,
    policies: usize,
    count: usize,
    failures: &mut Vec<String>,
) -> Result<Vec<Change>> {
    // The last change allows the datagrams again.
    let count = count.next_multiple_of(2);
    let proxy = Proxy::start(subject)?;
    let role = |role| json!({"metadata": {"labels": {ROLE: role}}});
    let rules = |port| json!({"spec": policies::allow_rules(port)});
    let policy = format!(
        "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/{}",
        policies::allow(policies)
    );
    let kinds = [
        (
            "label of a pod",
            "/api/v1/namespaces/default/pods/client",
            [role("none"), role("client")],
        ),
        ("policy", policy.as_str(), [rules(PORT + 1), rules(PORT)]),
    ];
    let mut changes = Vec::new();
    for (what, object, patches) in kinds {
        let (writes, outcomes) = observe(subject, program, &proxy, object, &patches, count)
            .with_context(|| format!("changes of a {what}"))?;
        let times: Vec<Option<Effect>> = effects(&writes, &outcomes);
        let missing = times.iter().filter(|time| time.is_none()).count();
        if missing > 0 {
            failures.push(format!("{missing} of {count} changes of a {what} were not observed"));
        }
        let times: Vec<Effect> = times.into_iter().flatten().collect();
        changes.push(Change {
            what: what.to_owned(),
            since_request_ms: times.iter().map(|time| time.since_request_ms).collect(),
            since_answer_ms: times.iter().map(|time| time.since_answer_ms).collect(),
        });
    }
    Ok(changes)
}

/// Probes the server while the changes are made; returns the writes and the outcomes.
fn observe(
    subject: &Subject,
    program: &Path,
    proxy: &Proxy,
    object: &str,
    patches: &[Value; 2],
    count: usize,
) -> Result<(Vec<Write>, Vec<Outcome>)> {
    let duration = 2 * MARGIN + (PAUSE + WRITE) * u32::try_from(count)?;
    let near = subject.target(true);
    let seconds = duration.as_secs_f64().to_string();
    let words = ["probe", "--target", &near, "--seconds", &seconds];
    let mut write = subject.cluster.command(program);
    write
        .args(["write", "--object", object, "--count", &count.to_string()])
        .args(["--pause", &PAUSE.as_secs_f64().to_string(), "--socket"])
        .arg(&proxy.socket)
        .stdin(Stdio::null());
    for patch in patches {
        write.args(["--patch", &patch.to_string()]);
    }
    let name = format!("{count} changes");
    let mut reporter = Reporter::new(&name);
    let (writes, probe) = thread::scope(|scope| {
        let probe = scope.spawn(|| subject.cluster.in_client(&words, duration + QUERY));
        // The probe is in its pod by then; a change before its first datagram would be missing.
        thread::sleep(MARGIN);
        let report = || reporter.report(String::new);
        let writes = process::output_watched(&mut write, duration + QUERY, report);
        let probe = probe.join().map_err(|_| anyhow!("a thread panicked"))?;
        anyhow::Ok((writes?, probe?))
    })?;
    keep(&writes, &probe)?;
    let writes: Value = serde_json::from_str(&writes).context("unexpected output of netbench")?;
    Ok((Write::list(&writes)?, Outcome::list(&probe["changes"])?))
}

/// Writes what was measured to a file, for what the report does not show.
fn keep(writes: &str, probe: &Value) -> Result<()> {
    let folder = target().join("bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("policy-changes.json"), format!("[{writes},{probe}]"))?;
    Ok(())
}

/// A write in the API: times in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Write {
    sent: u64,
    answered: u64,
}

/// When datagrams began to be answered, or ceased to.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    at: u64,
    answered: bool,
}

/// When a change took effect.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Effect {
    since_request_ms: f64,
    since_answer_ms: f64,
}

impl Write {
    fn list(json: &Value) -> Result<Vec<Write>> {
        let parse = |row: &Value| {
            Some(Write { sent: row["sent_ns"].as_u64()?, answered: row["answered_ns"].as_u64()? })
        };
        list(json, parse)
    }
}

impl Outcome {
    fn list(json: &Value) -> Result<Vec<Outcome>> {
        let parse = |row: &Value| {
            Some(Outcome { at: row["at_ns"].as_u64()?, answered: row["answered"].as_bool()? })
        };
        list(json, parse)
    }
}

fn list<T>(json: &Value, parse: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    let rows = json.as_array().map(|rows| rows.iter().map(parse).collect::<Option<Vec<T>>>());
    rows.flatten().with_context(|| format!("unexpected output of netbench: {json}"))
}

/// The effect of each write: the first change to its outcome before the next write. Writes forbid and
/// allow in turn.
fn effects(writes: &[Write], outcomes: &[Outcome]) -> Vec<Option<Effect>> {
    let ends = writes.iter().skip(1).map(|next| next.sent).chain([u64::MAX]);
    let effect = |(number, (write, end)): (usize, (&Write, u64))| {
        let allows = number % 2 == 1;
        let outcome = outcomes.iter().find(|outcome| {
            // The datagram before the write may have been judged after it.
            outcome.answered == allows && outcome.at + INTERVAL >= write.sent && outcome.at < end
        })?;
        let since = |time: u64| (outcome.at as f64 - time as f64) / 1e6;
        Some(Effect { since_request_ms: since(write.sent), since_answer_ms: since(write.answered) })
    };
    writes.iter().zip(ends).enumerate().map(effect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_effect_is_the_change_to_the_outcome_of_the_write_before_the_next() {
        let write = |sent: u64| Write { sent: sent * MS, answered: (sent + 4) * MS };
        let outcome = |at: u64, answered| Outcome { at: at * MS, answered };
        let writes = [write(1_000), write(2_000), write(3_000), write(4_000)];
        // The third write was not observed; an answer can arrive after the effect.
        let outcomes =
            [outcome(0, true), outcome(1_010, false), outcome(2_003, true), outcome(4_500, true)];
        let effect =
            |since_request_ms, since_answer_ms| Some(Effect { since_request_ms, since_answer_ms });
        let expected = [effect(10.0, 6.0), effect(3.0, -1.0), None, effect(500.0, 496.0)];
        assert_eq!(effects(&writes, &outcomes), expected);
    }

    #[test]
    fn output_of_the_load_generator_is_read() {
        let writes = Write::list(&json!([{"sent_ns": 1, "answered_ns": 2}])).expect("valid");
        assert_eq!((writes[0].sent, writes[0].answered), (1, 2));
        let outcomes = Outcome::list(&json!([{"at_ns": 3, "answered": true}])).expect("valid");
        assert_eq!((outcomes[0].at, outcomes[0].answered), (3, true));
        assert!(Outcome::list(&json!(null)).is_err());
        assert!(Write::list(&json!([{"sent_ns": 1}])).is_err());
    }
}
