//! The figures of `cargo xtask bench policy` as tables with aims, and as JSON. No I/O.

use serde_json::{Value, json};

use crate::bench::aims::{self, Aim, dash};
use crate::bench::packets;
use crate::bench::report::{Claim, Load, place};
use crate::bench::statistics::{Interval, Limit, percentile, ratios};

/// The least rate relative to that without policies.
const RATE: f64 = 0.98;
/// The longest time from ADD's return to the first packet, 99th percentile in milliseconds.
const FIRST_PACKET_MS: f64 = 50.0;
/// The longest time from a change to its effect, 99th percentile in milliseconds.
const CHANGE_MS: f64 = 20.0;
/// The longest time from a dropped packet to its line in `sluice drops --follow`, 99th percentile in milliseconds.
const DROP_MS: f64 = 1000.0;

/// The time of a drop in tables and claims.
const DROP: &str = "dropped packet to its line in `sluice drops --follow`";

/// What is measured once per round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Number of policies that select client and server.
    pub policies: usize,
    /// Kind of load.
    pub load: Load,
    /// Whether client and server are on one node.
    pub same_node: bool,
}

impl Case {
    /// The name in messages.
    pub fn label(self) -> String {
        let place = place(self.same_node);
        format!("{} policies, {}, {place}", self.policies, self.load.label())
    }
}

/// The samples of one case, one per round; `None` where every attempt failed.
#[derive(Clone, Debug)]
pub struct Series {
    /// What was measured.
    pub case: Case,
    /// Rates.
    pub samples: Vec<Option<f64>>,
}

/// Rows in the maps of the client's node.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Number of policies that select the pods.
    pub policies: usize,
    /// Rows by table.
    pub tables: Vec<(String, u64)>,
}

/// Times of pods in milliseconds, one after the other.
#[derive(Clone, Debug)]
pub struct Add {
    /// Number of policies that select the pods, besides a default deny.
    pub policies: usize,
    /// Duration of ADD.
    pub add_ms: Vec<f64>,
    /// From the return of ADD to the first answer of a server on the same node.
    pub near_ms: Vec<f64>,
    /// From the pod's address in the API to the first answer of a server on another node.
    pub far_ms: Vec<f64>,
}

/// Times from changes of one kind to their effect, in milliseconds.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed.
    pub what: String,
    /// Since the request to the API server.
    pub since_request_ms: Vec<f64>,
    /// Since the API server's answer.
    pub since_answer_ms: Vec<f64>,
}

/// Pods that started at once.
#[derive(Clone, Debug)]
pub struct Starts {
    /// Their number.
    pub pods: usize,
    /// Time from the first request until the last container had started, in seconds.
    pub started_s: f64,
    /// Time from the first request until the last pod had both answers, in seconds.
    pub answered_s: f64,
    /// From the container's first instruction to the first answer of its own node, in milliseconds.
    pub own_ms: Vec<f64>,
    /// To the first answer of the other node.
    pub other_ms: Vec<f64>,
}

impl Starts {
    /// From the clock at the first request and the reports of the pods.
    pub fn new(begin: u64, reports: impl Iterator<Item = Value>) -> Starts {
        let since = |time: u64, start: u64| time.saturating_sub(start) as f64;
        let mut starts = Starts {
            pods: 0,
            started_s: 0.0,
            answered_s: 0.0,
            own_ms: Vec::new(),
            other_ms: Vec::new(),
        };
        for report in reports {
            starts.pods += 1;
            let started = report["started_ns"].as_u64().unwrap_or_default();
            starts.started_s = starts.started_s.max(since(started, begin) / 1e9);
            let times = [&mut starts.own_ms, &mut starts.other_ms];
            for (answered, times) in
                [0, 1].map(|at| &report["answered_ns"][at]).into_iter().zip(times)
            {
                if let Some(answered) = answered.as_u64() {
                    times.push(since(answered, started) / 1e6);
                    starts.answered_s = starts.answered_s.max(since(answered, begin) / 1e9);
                }
            }
        }
        starts
    }
}

/// Memory of a node.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Which policies there are.
    pub name: String,
    /// Resident memory of the agent in KiB.
    pub agent_kib: u64,
    /// Memory of the maps that the agent has open, in KiB.
    pub maps_kib: u64,
}

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Figures {
    /// Cases of `bench packets`.
    pub packets: Vec<Value>,
    /// One row per number of policies.
    pub adds: Vec<Add>,
    /// One row per number of policies.
    pub rows: Vec<Rows>,
    /// Rates.
    pub series: Vec<Series>,
    /// Times from dropped packets to their lines in `sluice drops --follow`, in milliseconds.
    pub drops: Vec<f64>,
    /// One row per kind of change.
    pub changes: Vec<Change>,
    /// Memory, from the smallest number of policies to the largest.
    pub memory: Vec<Memory>,
    /// Many pods at once.
    pub starts: Option<Starts>,
    /// What could not be measured.
    pub failures: Vec<String>,
}

impl Figures {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.rates();
        text.push_str(&self.times());
        if !self.packets.is_empty() {
            text.push_str(&format!("\n{}", packets::table(&self.packets)));
        }
        text.push_str(
            "\n| memory, the larger of both nodes | agent, MiB | maps, MiB |\n|---|---|---|\n",
        );
        for row in &self.memory {
            let mib = |kib: u64| kib as f64 / 1024.0;
            text.push_str(&format!(
                "| {} | {:.1} | {:.1} |\n",
                row.name,
                mib(row.agent_kib),
                mib(row.maps_kib)
            ));
        }
        text.push_str(&aims::summary(self.claims().iter()));
        for failure in &self.failures {
            text.push_str(&format!("\nNot measured: {failure}\n"));
        }
        text
    }

    /// Rates and rows: one row per load, place and number of policies.
    fn rates(&self) -> String {
        let mut text = String::from(
            "| policies of the pods | load | place | rate | rate / without policies |\n|---|---|---|---|---|\n",
        );
        for series in &self.series {
            let Case { policies, load, same_node } = series.case;
            let (load, place) = (load.label(), place(same_node));
            let rate = series.case.load.median(&series.samples);
            let ratio = self.aim(series).map_or_else(|| "1".to_owned(), |aim| aim.cell());
            text.push_str(&format!("| {policies} | {load} | {place} | {rate} | {ratio} |\n"));
        }
        if let Some(first) = self.rows.first() {
            let names = first.tables.iter().map(|(table, _)| format!(" `{table}` |"));
            text.push_str(&format!("\n| policies of the pods |{}\n", names.collect::<String>()));
            text.push_str(&format!("|---|{}\n", "---|".repeat(first.tables.len())));
        }
        for row in &self.rows {
            let rows = row.tables.iter().map(|(_, rows)| format!(" {rows} |"));
            text.push_str(&format!("| {} |{}\n", row.policies, rows.collect::<String>()));
        }
        text
    }

    /// Times: one row per kind.
    fn times(&self) -> String {
        let mut text = String::from(
            "\n| time, ms | p50 | p99 | longest | of | aim |\n|---|---|---|---|---|---|\n",
        );
        for add in &self.adds {
            let name = |what: &str| format!("{what}, default deny and {} policies", add.policies);
            text.push_str(&times_row(&name("ADD"), &add.add_ms, None));
            for (what, times) in add.times() {
                text.push_str(&times_row(&name(what), times, Some(FIRST_PACKET_MS)));
            }
        }
        if !self.drops.is_empty() {
            text.push_str(&times_row(DROP, &self.drops, Some(DROP_MS)));
        }
        for change in &self.changes {
            let name =
                |since: &str| format!("change of a {} to its effect, since {since}", change.what);
            text.push_str(&times_row(&name("the request"), &change.since_request_ms, None));
            let answer = &change.since_answer_ms;
            text.push_str(&times_row(&name("the answer"), answer, Some(CHANGE_MS)));
        }
        if let Some(starts) = &self.starts {
            for (place, times) in [("the own", &starts.own_ms), ("the other", &starts.other_ms)] {
                let name = format!(
                    "{} pods at once, first instruction to the first answer of {place} node",
                    starts.pods
                );
                text.push_str(&times_row(&name, times, None));
            }
            text.push_str(&format!(
                "\n{} pods at once: the last container started after {:.1} s, the last pod had both answers \
                 after {:.1} s.\n",
                starts.pods, starts.started_s, starts.answered_s
            ));
        }
        text
    }

    /// Every figure and sample as JSON.
    pub fn json(&self) -> Value {
        let series = self.series.iter().map(|series| {
            json!({
                "policies": series.case.policies,
                "load": series.case.load.label(),
                "same_node": series.case.same_node,
                "unit": series.case.load.unit(),
                "samples": series.samples,
            })
        });
        let adds = self.adds.iter().map(|add| {
            json!({
                "policies": add.policies, "add_ms": add.add_ms,
                "same_node_ms": add.near_ms, "other_node_ms": add.far_ms,
            })
        });
        let rows = self.rows.iter().map(|row| {
            let tables: serde_json::Map<String, Value> =
                row.tables.iter().map(|(table, rows)| (table.clone(), json!(rows))).collect();
            json!({"policies": row.policies, "rows": tables})
        });
        let changes = self.changes.iter().map(|change| {
            json!({
                "what": change.what,
                "since_request_ms": change.since_request_ms,
                "since_answer_ms": change.since_answer_ms,
            })
        });
        let memory = self.memory.iter().map(|row| {
            json!({"policies": row.name, "agent_kib": row.agent_kib, "maps_kib": row.maps_kib})
        });
        let starts = self.starts.as_ref().map(|starts| {
            json!({
                "pods": starts.pods, "started_s": starts.started_s, "answered_s": starts.answered_s,
                "own_node_ms": starts.own_ms, "other_node_ms": starts.other_ms,
            })
        });
        json!({
            "series": series.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "adds": adds.collect::<Vec<_>>(),
            "drops_ms": self.drops,
            "changes": changes.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(),
            "starts": starts,
            "packets": self.packets,
            "claims": self.claims().iter().map(Claim::json).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }

    /// What is aimed at, with what was measured.
    fn claims(&self) -> Vec<Claim> {
        let mut claims: Vec<Claim> =
            self.series.iter().filter_map(|series| Some(self.aim(series)?.claim)).collect();
        for add in &self.adds {
            for (what, times) in add.times() {
                let text = format!("{}, {} policies", what, add.policies);
                claims.extend(p99_claim(text, times, FIRST_PACKET_MS));
            }
        }
        claims.extend(p99_claim(DROP.to_owned(), &self.drops, DROP_MS));
        for change in &self.changes {
            let text = format!("change of a {} to its effect", change.what);
            claims.extend(p99_claim(text, &change.since_answer_ms, CHANGE_MS));
        }
        claims
    }

    /// The rate relative to that without policies, in the same rounds.
    fn aim(&self, series: &Series) -> Option<Aim> {
        if series.case.policies == 0 {
            return None;
        }
        let without = Case { policies: 0, ..series.case };
        let without = self.series.iter().find(|other| other.case == without)?;
        let text = format!("{} / without policies at least {RATE}", series.case.label());
        Some(Aim::new(text, RATE, ratios(&series.samples, &without.samples)))
    }
}

impl Add {
    /// The times with an aim.
    fn times(&self) -> [(&'static str, &[f64]); 2] {
        [
            ("ADD's return to the first answer, same node", &self.near_ms),
            ("address in the API to the first answer, other node", &self.far_ms),
        ]
    }
}

/// The claim about a 99th percentile; `None` without samples.
fn p99_claim(text: String, times: &[f64], limit: f64) -> Option<Claim> {
    let interval = Some(Interval::point(percentile(times, 0.99)?));
    let text = format!("{text}: p99 at most {limit} ms");
    Some(Claim { text, limit: Limit::AtMost(limit), interval })
}

/// A row of the table of times; the aim is that of the 99th percentile.
fn times_row(name: &str, times: &[f64], limit: Option<f64>) -> String {
    let at = |share| percentile(times, share).map_or_else(dash, |ms| format!("{ms:.1}"));
    let aim = limit.and_then(|limit| {
        let claim = p99_claim(String::new(), times, limit)?;
        Some(format!("p99 {limit}: {}", claim.verdict()))
    });
    format!(
        "| {name} | {} | {} | {} | {} | {} |\n",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len(),
        aim.unwrap_or_else(dash)
    )
}

#[cfg(test)]
mod tests;
