//! The figures of `cargo xtask bench services` as a table with aims, and as JSON. No I/O.

use serde_json::{Value, json};

use crate::bench::aims::{self, Aim, dash, format_ratio};
use crate::bench::report::{Load, Network, place};
use crate::bench::statistics::ratios;

/// What the client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The pod's own address.
    Pod,
    /// The ClusterIP.
    ClusterIp,
    /// The NodePort of the client's own node.
    OwnNodePort,
    /// The NodePort of the other node.
    OtherNodePort,
}

impl Address {
    /// The name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Address::Pod => "pod address",
            Address::ClusterIp => "ClusterIP",
            Address::OwnNodePort => "NodePort of the client's node",
            Address::OtherNodePort => "NodePort of the other node",
        }
    }
}

/// What is measured once per round and network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Kind of load.
    pub load: Load,
    /// Whether client and server are on one node.
    pub same_node: bool,
    /// What the client connects to.
    pub address: Address,
}

impl Case {
    /// The name in messages.
    pub fn label(self) -> String {
        let place = place(self.same_node);
        format!("{}, {place}, {}", self.load.label(), self.address.label())
    }

    /// The same load and place, directly to the pod.
    fn direct(self) -> Case {
        Case { address: Address::Pod, ..self }
    }

    /// The least rate relative to [`Case::direct`].
    fn aim(self) -> f64 {
        self.load.service_aim()
    }
}

/// The loads and places, each with the addresses that are compared. A client on the server's node
/// does not use the NodePort of the other node: its packets would cross the network twice.
pub const GROUPS: [(Load, bool, &[Address]); 6] = {
    use Address::{ClusterIp, OtherNodePort, OwnNodePort, Pod};
    [
        (Load::Connect, true, &[Pod, ClusterIp, OwnNodePort]),
        (Load::Connect, false, &[Pod, ClusterIp, OwnNodePort, OtherNodePort]),
        (Load::RequestResponse, true, &[Pod, ClusterIp]),
        (Load::RequestResponse, false, &[Pod, ClusterIp]),
        (Load::Throughput, true, &[Pod, ClusterIp]),
        (Load::Throughput, false, &[Pod, ClusterIp]),
    ]
};

/// All cases, in the order of [`GROUPS`].
pub fn cases() -> Vec<Case> {
    let of = |&(load, same_node, addresses): &(Load, bool, &'static [Address])| {
        addresses.iter().map(move |&address| Case { load, same_node, address })
    };
    GROUPS.iter().flat_map(of).collect()
}

/// The samples of one case, one per round; `None` where every attempt failed.
#[derive(Clone, Debug)]
pub struct Series {
    /// Number of Services in the cluster.
    pub services: usize,
    /// The network.
    pub network: Network,
    /// What was measured.
    pub case: Case,
    /// Rates.
    pub samples: Vec<Option<f64>>,
}

/// How long a cluster took to get its Services.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Number of Services in the cluster.
    pub services: usize,
    /// The network.
    pub network: Network,
    /// Time in which the API server accepted them, in seconds.
    pub created: f64,
    /// Time until a Service that was created after them was served, in seconds.
    pub programmed: f64,
    /// Largest resident memory, after the rounds, of a process that programs Services, in KiB.
    pub memory: u64,
}

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Figures {
    /// Rates.
    pub series: Vec<Series>,
    /// One row per size and network.
    pub filled: Vec<Filled>,
    /// Measurements of which every attempt failed.
    pub failures: Vec<String>,
}

impl Figures {
    /// The report as Markdown: one row per size and case, the networks side by side.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| Services | load | place | address | Sluice | Sluice / pod address | \
             kube-proxy (iptables) | Sluice / iptables | kube-proxy (nftables) | Sluice / nftables |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for series in self.series.iter().filter(|series| series.network == Network::Sluice) {
            let case = series.case;
            let mut cells = vec![
                series.services.to_string(),
                case.load.label().to_owned(),
                place(case.same_node).to_owned(),
                case.address.label().to_owned(),
                rate(series),
                self.own_claim(series).map_or_else(|| "1".to_owned(), |claim| claim.cell()),
            ];
            for network in [Network::Iptables, Network::Nftables] {
                let other = self.find(series.services, network, case);
                cells.push(other.map_or_else(dash, rate));
                cells.push(other.map_or_else(dash, |other| match self.other_claim(other) {
                    Some(claim) => claim.cell(),
                    None => format_ratio(&self.sluice_to(other)),
                }));
            }
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text.push_str(
            "\n| Services | network | created in, s (one cluster after the other) | served after further, s | \
             largest resident memory, MiB |\n|---|---|---|---|---|\n",
        );
        for row in &self.filled {
            text.push_str(&format!(
                "| {} | {} | {:.1} | {:.1} | {:.1} |\n",
                row.services,
                row.network.label(),
                row.created,
                row.programmed,
                row.memory as f64 / 1024.0,
            ));
        }
        text.push_str(&aims::summary(self.aims().iter().map(|aim| &aim.claim)));
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
                    "services": series.services,
                    "network": series.network.label(),
                    "load": series.case.load.label(),
                    "same_node": series.case.same_node,
                    "address": series.case.address.label(),
                    "unit": series.case.load.unit(),
                    "samples": series.samples,
                })
            })
            .collect();
        let filled: Vec<Value> = self
            .filled
            .iter()
            .map(|row| {
                json!({
                    "services": row.services,
                    "network": row.network.label(),
                    "created_s": row.created,
                    "programmed_s": row.programmed,
                    "memory_kib": row.memory,
                })
            })
            .collect();
        json!({
            "series": series,
            "filled": filled,
            "claims": self.aims().iter().map(|aim| aim.claim.json()).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }

    /// What Sluice aims at.
    fn aims(&self) -> Vec<Aim> {
        let of = |series| [self.own_claim(series), self.other_claim(series)];
        self.series.iter().flat_map(of).flatten().collect()
    }

    /// Sluice's rate relative to that of the pod's address.
    fn own_claim(&self, series: &Series) -> Option<Aim> {
        let case = series.case;
        if series.network != Network::Sluice || case.address == Address::Pod {
            return None;
        }
        let least = case.aim();
        let text = format!(
            "{} Services, {} / pod address at least {least}",
            series.services,
            case.label()
        );
        Some(Aim::new(text, least, self.to_direct(series)))
    }

    /// Sluice's rate relative to that of another network.
    fn other_claim(&self, series: &Series) -> Option<Aim> {
        if series.network == Network::Sluice || series.case.address == Address::Pod {
            return None;
        }
        let text = format!(
            "{} Services, {}: Sluice / {} at least 1",
            series.services,
            series.case.label(),
            series.network.label()
        );
        Some(Aim::new(text, 1.0, self.sluice_to(series)))
    }

    /// The ratios of each round.
    fn to_direct(&self, series: &Series) -> Vec<f64> {
        let direct = self.find(series.services, series.network, series.case.direct());
        direct.map(|direct| ratios(&series.samples, &direct.samples)).unwrap_or_default()
    }

    /// The ratios of each round.
    fn sluice_to(&self, series: &Series) -> Vec<f64> {
        let sluice = self.find(series.services, Network::Sluice, series.case);
        sluice.map(|sluice| ratios(&sluice.samples, &series.samples)).unwrap_or_default()
    }

    fn find(&self, services: usize, network: Network, case: Case) -> Option<&Series> {
        self.series
            .iter()
            .find(|s| s.services == services && s.network == network && s.case == case)
    }
}

/// The median of a series, with its unit.
fn rate(series: &Series) -> String {
    series.case.load.median(&series.samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(network: Network, address: Address, rate: f64) -> Series {
        let case = Case { load: Load::Connect, same_node: true, address };
        Series { services: 1000, network, case, samples: vec![Some(rate); 6] }
    }

    #[test]
    fn aims_and_verdicts_are_beside_the_figures() {
        let figures = Figures {
            series: vec![
                series(Network::Sluice, Address::Pod, 5000.0),
                series(Network::Sluice, Address::ClusterIp, 4900.0),
                series(Network::Sluice, Address::OwnNodePort, 4000.0),
                series(Network::Nftables, Address::Pod, 5000.0),
                series(Network::Nftables, Address::ClusterIp, 4000.0),
                series(Network::Nftables, Address::OwnNodePort, 5000.0),
            ],
            filled: vec![Filled {
                services: 1000,
                network: Network::Sluice,
                created: 12.34,
                programmed: 0.5,
                memory: 20_480,
            }],
            failures: vec!["round 3".to_owned()],
        };
        let text = figures.markdown();
        for expected in [
            "| 1000 | connect+request+response | same node | pod address | 5000/s | 1 | - | - | 5000/s | 1.000 (1.000 to 1.000) |",
            "| ClusterIP | 4900/s | 0.980 (0.980 to 0.980), aim 0.95: holds | - | - | 4000/s | 1.225 (1.225 to 1.225), aim 1: holds |",
            "node | 4000/s | 0.800 (0.800 to 0.800), aim 0.95: does not hold | - | - | 5000/s | 0.800 (0.800 to 0.800), aim 1: does not hold |",
            "| 1000 | Sluice | 12.3 | 0.5 | 20.0 |",
            "Of 4 aims 2 hold, 2 do not hold, and 0 are not shown",
            "Not measured: round 3",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
        let json = figures.json();
        let verdicts: Vec<&str> = json["claims"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter_map(|claim| claim["verdict"].as_str())
            .collect();
        assert_eq!(verdicts, ["Holds", "Refuted", "Holds", "Refuted"]);
    }

    #[test]
    fn few_rounds_give_a_median_without_verdict() {
        let mut few = vec![
            series(Network::Sluice, Address::Pod, 5000.0),
            series(Network::Sluice, Address::ClusterIp, 4000.0),
        ];
        few.iter_mut().for_each(|series| series.samples.truncate(2));
        let text = Figures { series: few, ..Figures::default() }.markdown();
        assert!(text.contains("| 4000/s | 0.800, aim 0.95: not shown | - | - | - | - |"), "{text}");
    }

    #[test]
    fn aims_are_those_of_new_connections_and_of_open_ones() {
        let aims = |load| cases().into_iter().filter(move |case| case.load == load).map(Case::aim);
        assert!(aims(Load::Connect).all(|aim| aim == 0.95));
        assert!(aims(Load::RequestResponse).chain(aims(Load::Throughput)).all(|aim| aim == 0.99));
        // The direct sample of each case is taken in the same round.
        assert!(cases().into_iter().all(|case| cases().contains(&case.direct())));
    }
}
