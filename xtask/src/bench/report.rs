//! The figures of a run as a table, as claims and as JSON. No I/O.

use serde_json::{Value, json};

use super::statistics::{Interval, Limit, Verdict, interval, median, ratios};

/// Implementation of the network under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Sluice.
    Sluice,
    /// Debian's bridge plugin with static routes; kube-proxy in iptables mode.
    Iptables,
    /// Debian's bridge plugin with static routes; kube-proxy in nftables mode.
    Nftables,
}

impl Network {
    /// The name in tables and charts.
    pub fn label(self) -> &'static str {
        match self {
            Network::Sluice => "Sluice",
            Network::Iptables => "bridge + kube-proxy (iptables)",
            Network::Nftables => "bridge + kube-proxy (nftables)",
        }
    }
}

/// Kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Round trips on one connection.
    RequestResponse,
    /// Connect, one round trip, close.
    Connect,
    /// Bulk transfer, in bytes.
    Throughput,
}

impl Load {
    /// Every load.
    pub const ALL: [Load; 3] = [Load::RequestResponse, Load::Connect, Load::Throughput];

    /// The name in tables and charts.
    pub fn label(self) -> &'static str {
        match self {
            Load::RequestResponse => "request/response",
            Load::Connect => "connect+request+response",
            Load::Throughput => "throughput",
        }
    }

    /// The value of netbench's `--mode`.
    pub fn mode(self) -> &'static str {
        match self {
            Load::RequestResponse => "rr",
            Load::Connect => "crr",
            Load::Throughput => "stream",
        }
    }

    /// The unit of samples.
    pub fn unit(self) -> &'static str {
        match self {
            Load::RequestResponse | Load::Connect => "1/s",
            Load::Throughput => "bytes/s",
        }
    }

    /// The least rate through a Service relative to that of the pod's own address.
    pub fn service_aim(self) -> f64 {
        match self {
            Load::Connect => 0.95,
            Load::RequestResponse | Load::Throughput => 0.99,
        }
    }

    /// The median of samples with its unit, or a dash.
    pub fn median(self, samples: &[Option<f64>]) -> String {
        let samples: Vec<f64> = samples.iter().copied().flatten().collect();
        median(&samples).map_or_else(|| "-".to_owned(), |median| self.format(median))
    }

    /// Formats a rate with its unit.
    pub fn format(self, per_second: f64) -> String {
        match self {
            Load::RequestResponse | Load::Connect => format!("{per_second:.0}/s"),
            Load::Throughput => format!("{:.2} Gbit/s", per_second * 8.0 / 1e9),
        }
    }
}

/// The samples of one network under one load, one per round; `None` where every attempt failed.
#[derive(Clone, Debug)]
pub struct Series {
    /// The network.
    pub network: Network,
    /// Whether client and server are on one node.
    pub same_node: bool,
    /// The load.
    pub load: Load,
    /// Rates through the pod's address.
    pub pod_address: Vec<Option<f64>>,
    /// Rates through the ClusterIP.
    pub cluster_ip: Vec<Option<f64>>,
}

impl Series {
    /// The place in tables and charts.
    pub fn place(&self) -> &'static str {
        place(self.same_node)
    }

    fn cluster_ip_ratio(&self) -> Option<Interval> {
        interval(&ratios(&self.cluster_ip, &self.pod_address))
    }
}

/// The figures of a run.
pub struct Figures {
    /// Rates, one series per load, place and network.
    pub series: Vec<Series>,
    /// Resident memory in KiB by process and node.
    pub memory: Vec<(String, u64)>,
    /// Durations of CNI ADD in milliseconds: Sluice, and ptp with host-local.
    pub cni_add: [Vec<f64>; 2],
    /// Measurements of which every attempt failed.
    pub failures: Vec<String>,
}

impl Figures {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| load | place | network | pod address | ClusterIP | ClusterIP / pod address | pod address, Sluice / this |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for series in &self.series {
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {} |\n",
                series.load.label(),
                series.place(),
                series.network.label(),
                series.load.median(&series.pod_address),
                series.load.median(&series.cluster_ip),
                format_interval(series.cluster_ip_ratio()),
                match series.network {
                    Network::Sluice => "1".to_owned(),
                    _ => format_interval(self.sluice_ratio(series)),
                },
            ));
        }
        text.push_str("\n| process | resident memory, KiB |\n|---|---|\n");
        for (process, kib) in &self.memory {
            text.push_str(&format!("| {process} | {kib} |\n"));
        }
        let [ours, theirs] = self.cni_add.each_ref().map(|times| median(times).unwrap_or(f64::NAN));
        text.push_str(&format!(
            "\nCNI ADD: Sluice {ours:.1} ms, ptp + host-local {theirs:.1} ms (medians of {} alternating pairs)\n",
            self.cni_add[0].len()
        ));
        text.push_str("\n| claim | measured | verdict |\n|---|---|---|\n");
        for claim in self.claims() {
            let measured = format_interval(claim.interval);
            text.push_str(&format!("| {} | {measured} | {} |\n", claim.text, claim.verdict()));
        }
        for failure in &self.failures {
            text.push_str(&format!("\nNot measured: {failure}\n"));
        }
        text
    }

    /// Every figure and sample as JSON.
    pub fn json(&self) -> Value {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                json!({
                    "network": series.network.label(),
                    "same_node": series.same_node,
                    "load": series.load.label(),
                    "unit": series.load.unit(),
                    "pod_address": series.pod_address,
                    "cluster_ip": series.cluster_ip,
                    "cluster_ip_to_pod_address":
                        median(&ratios(&series.cluster_ip, &series.pod_address)),
                })
            })
            .collect();
        let [ours, theirs] = &self.cni_add;
        json!({
            "series": series,
            "memory_kib": self.memory.iter().map(|(p, kib)| (p.clone(), json!(kib))).collect::<serde_json::Map<_, _>>(),
            "cni_add_ms": { "sluice": ours, "ptp": theirs },
            "claims": self.claims().iter().map(Claim::json).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }

    /// Sluice's rate relative to that of the same load and place in another network.
    fn sluice_ratio(&self, other: &Series) -> Option<Interval> {
        let sluice = self.series.iter().find(|s| {
            s.network == Network::Sluice && s.load == other.load && s.same_node == other.same_node
        })?;
        interval(&ratios(&sluice.pod_address, &other.pod_address))
    }

    /// What Sluice claims about its performance.
    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for series in &self.series {
            let (load, place) = (series.load.label(), series.place());
            claims.push(match series.network {
                Network::Sluice => {
                    let limit = series.load.service_aim();
                    Claim {
                        text: format!("{load}, {place}: ClusterIP / pod address at least {limit}"),
                        limit: Limit::AtLeast(limit),
                        interval: series.cluster_ip_ratio(),
                    }
                }
                baseline => Claim {
                    text: format!("{load}, {place}: Sluice / {} at least 0.97", baseline.label()),
                    limit: Limit::AtLeast(0.97),
                    interval: self.sluice_ratio(series),
                },
            });
        }
        let [ours, theirs] =
            self.cni_add.each_ref().map(|t| t.iter().copied().map(Some).collect::<Vec<_>>());
        claims.push(Claim {
            text: "CNI ADD: Sluice / ptp + host-local at most 0.5".to_owned(),
            limit: Limit::AtMost(0.5),
            interval: interval(&ratios(&ours, &theirs)),
        });
        let agents = self.memory.iter().filter(|(process, _)| process.starts_with("sluice "));
        if let Some(mib) = agents.map(|(_, kib)| *kib as f64 / 1024.0).reduce(f64::max) {
            claims.push(Claim {
                text: "resident memory of the agent at most 20 MiB (largest of all nodes)"
                    .to_owned(),
                limit: Limit::AtMost(20.0),
                interval: Some(Interval::point(mib)),
            });
        }
        claims
    }
}

/// A claim with its measurement.
pub(super) struct Claim {
    /// The claim in words.
    pub text: String,
    /// The claim as a number.
    pub limit: Limit,
    /// The measurement.
    pub interval: Option<Interval>,
}

impl Claim {
    /// The verdict in a report.
    pub fn verdict(&self) -> &'static str {
        match self.limit.judge(self.interval) {
            Verdict::Holds => "holds",
            Verdict::NotShown => "not shown",
            Verdict::Refuted => "does not hold",
        }
    }

    /// Text, figures and verdict.
    pub fn json(&self) -> Value {
        let Interval { low, median, high } =
            self.interval.unwrap_or(Interval { low: f64::NAN, median: f64::NAN, high: f64::NAN });
        json!({
            "claim": self.text,
            "median": median,
            "interval": [low, high],
            "verdict": format!("{:?}", self.limit.judge(self.interval)),
        })
    }
}

/// The place in tables and charts.
pub(super) fn place(same_node: bool) -> &'static str {
    if same_node { "same node" } else { "across nodes" }
}

/// Median and interval, or a dash.
pub(super) fn format_interval(interval: Option<Interval>) -> String {
    match interval {
        Some(i) => format!("{:.3} ({:.3} to {:.3})", i.median, i.low, i.high),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(network: Network, pod_address: f64, cluster_ip: f64) -> Series {
        Series {
            network,
            same_node: true,
            load: Load::RequestResponse,
            pod_address: vec![Some(pod_address); 6],
            cluster_ip: vec![Some(cluster_ip); 6],
        }
    }

    #[test]
    fn report_judges_claims_by_the_samples() {
        let figures = Figures {
            series: vec![
                series(Network::Sluice, 1000.0, 995.0),
                series(Network::Nftables, 2000.0, 100.0),
            ],
            memory: vec![("sluice on a".to_owned(), 10240), ("kube-proxy on a".to_owned(), 99999)],
            cni_add: [vec![4.0; 6], vec![12.0; 6]],
            failures: vec!["round 3".to_owned()],
        };
        let text = figures.markdown();
        for expected in [
            "| request/response | same node | Sluice | 1000/s | 995/s | 0.995 (0.995 to 0.995) | 1 |",
            "ClusterIP / pod address at least 0.99 | 0.995 (0.995 to 0.995) | holds |",
            "kube-proxy (nftables) at least 0.97 | 0.500 (0.500 to 0.500) | does not hold |",
            "at most 0.5 | 0.333 (0.333 to 0.333) | holds |",
            "(largest of all nodes) | 10.000 (10.000 to 10.000) | holds |",
            "Not measured: round 3",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
        assert_eq!(figures.json()["claims"][1]["verdict"], "Refuted");
    }
}
