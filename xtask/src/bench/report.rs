//! From samples to figures: medians, spread, ratios, as a table and as JSON. No I/O.

use serde_json::{Value, json};

/// Which network carried the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Sluice, with Services at the socket.
    Sluice,
    /// Debian's bridge plugin with static routes, kube-proxy in iptables mode.
    Iptables,
    /// The same with kube-proxy in nftables mode.
    Nftables,
}

impl Network {
    /// The name in tables and pictures.
    pub fn label(self) -> &'static str {
        match self {
            Network::Sluice => "Sluice",
            Network::Iptables => "bridge + kube-proxy (iptables)",
            Network::Nftables => "bridge + kube-proxy (nftables)",
        }
    }
}

/// What was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Round trips on one connection.
    RequestResponse,
    /// Connect, one round trip, close.
    Connect,
    /// Bulk, in bytes.
    Throughput,
}

impl Load {
    /// The name in tables and pictures.
    pub fn label(self) -> &'static str {
        match self {
            Load::RequestResponse => "request/response",
            Load::Connect => "connect+request+response",
            Load::Throughput => "throughput",
        }
    }

    /// The load generator's word for it.
    pub fn mode(self) -> &'static str {
        match self {
            Load::RequestResponse => "rr",
            Load::Connect => "crr",
            Load::Throughput => "stream",
        }
    }

    /// A figure with its unit, as people read it.
    pub fn show(self, per_second: f64) -> String {
        match self {
            Load::RequestResponse | Load::Connect => format!("{per_second:.0}/s"),
            Load::Throughput => format!("{:.2} Gbit/s", per_second * 8.0 / 1e9),
        }
    }
}

/// All samples of one cell, one per round, in round order.
#[derive(Clone, Debug)]
pub struct Series {
    /// Which network.
    pub network: Network,
    /// Whether client and server stood on one node.
    pub same_node: bool,
    /// What was measured.
    pub load: Load,
    /// Straight to the pod's address, operations (or bytes) a second.
    pub direct: Vec<f64>,
    /// Through the ClusterIP, in the same rounds.
    pub cluster_ip: Vec<f64>,
}

/// Median, and the quartiles as the spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// First quartile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub high: f64,
}

/// Median and quartiles of `samples`; `None` where there are none.
pub fn spread(samples: &[f64]) -> Option<Spread> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let (below, above) =
            (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
        Some(below + (above - below) * place.fract())
    };
    Some(Spread { low: at(0.25)?, median: at(0.5)?, high: at(0.75)? })
}

/// Median and quartiles of the ratio of two series, taken round by round.
pub fn ratio(of: &[f64], to: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(a, b)| a / b).collect();
    spread(&ratios)
}

fn find(all: &[Series], network: Network, like: &Series) -> Option<Series> {
    all.iter()
        .find(|s| s.network == network && s.same_node == like.same_node && s.load == like.load)
        .cloned()
}

/// The table that people read, as Markdown.
pub fn table(all: &[Series]) -> String {
    let mut text = String::from(
        "| load | where | network | pod address | ClusterIP | ClusterIP / pod address | pod address, Sluice / this |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for series in all {
        let place = if series.same_node { "same node" } else { "across nodes" };
        let show = |samples: &[f64]| match spread(samples) {
            Some(s) => series.load.show(s.median),
            None => "-".to_owned(),
        };
        let sluice = find(all, Network::Sluice, series);
        let against = sluice.and_then(|s| ratio(&s.direct, &series.direct));
        text.push_str(&format!(
            "| {} | {place} | {} | {} | {} | {} | {} |\n",
            series.load.label(),
            series.network.label(),
            show(&series.direct),
            show(&series.cluster_ip),
            show_ratio(ratio(&series.cluster_ip, &series.direct)),
            if series.network == Network::Sluice { "1".to_owned() } else { show_ratio(against) },
        ));
    }
    text
}

fn show_ratio(ratio: Option<Spread>) -> String {
    match ratio {
        Some(r) => format!("{:.3} ({:.3} to {:.3})", r.median, r.low, r.high),
        None => "-".to_owned(),
    }
}

/// Everything, samples included, for later comparison.
pub fn json(all: &[Series]) -> Value {
    let rows: Vec<Value> = all
        .iter()
        .map(|series| {
            json!({
                "network": series.network.label(),
                "same_node": series.same_node,
                "load": series.load.label(),
                "unit": if series.load == Load::Throughput { "bytes/s" } else { "1/s" },
                "direct": series.direct,
                "cluster_ip": series.cluster_ip,
                "cluster_ip_to_direct": ratio(&series.cluster_ip, &series.direct).map(|r| r.median),
            })
        })
        .collect();
    json!({ "series": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles_lie_between_neighbours() {
        let s = spread(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(s, Some(Spread { low: 1.75, median: 2.5, high: 3.25 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was slow in the second round; the ratio does not notice.
        let r = ratio(&[99.0, 49.5, 198.0], &[100.0, 50.0, 200.0]).map(|r| r.median);
        assert!(r.is_some_and(|r| (r - 0.99).abs() < 1e-9), "{r:?}");
    }
}
