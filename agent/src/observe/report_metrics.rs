//! Metrics of what the collection of flows counts: fill of the maps, source ports by destination, flows
//! by pod.
//!
//! The number of series is bounded: maps, pods of this node, ten destinations. A destination is named
//! only while it uses many ports, and `sluice_snat_ports_used_max` has no label: alerts use it.

use std::fmt;
use std::net::SocketAddr;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use sluice_core::dump::protocol_name;

use crate::flows::{Report, SharedReport};

/// Collector of the last report.
#[derive(Debug)]
pub struct ReportMetrics(pub SharedReport);

impl Collector for ReportMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Report { maps, ports_max, destinations, pods } = self.0.get();
        let e = &mut encoder;
        let entries = maps.iter().map(|fill| ([("map", fill.map)], fill.entries));
        gauge(e, "sluice_map_entries", "Entries of a map, counted every minute", entries)?;
        let capacity = maps.iter().map(|fill| ([("map", fill.map)], fill.capacity));
        gauge(e, "sluice_map_capacity", "Most entries that a map can have", capacity)?;
        let none: [(&str, &str); 0] = [];
        let help = "Source ports that masquerading uses for the destination with the most";
        gauge(e, "sluice_snat_ports_used_max", help, [(none, ports_max)])?;
        let destinations: Vec<_> = destinations
            .into_iter()
            .map(|((proto, addr, port), ports)| {
                let address = SocketAddr::new(addr.into(), port).to_string();
                (protocol(proto), address, ports)
            })
            .collect();
        let help = "Source ports that masquerading uses for a destination with 1000 or more, of the \
                    ten largest";
        let used = destinations.iter().map(|(protocol, destination, ports)| {
            ([("protocol", *protocol), ("destination", destination.as_str())], *ports)
        });
        gauge(e, "sluice_snat_ports_used", help, used)?;
        let help = "Entries of a pod's flows in the table of flows; a translated flow takes two";
        let flows = pods.iter().map(|(namespace, pod, entries)| {
            ([("namespace", namespace.as_str()), ("pod", pod.as_str())], *entries)
        });
        gauge(e, "sluice_pod_flow_entries", help, flows)
    }
}

/// Writes a gauge with a sample for each set of labels.
pub(super) fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], u32)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        let sample = family.encode_family(&labels)?;
        ConstGauge::new(i64::from(value)).encode(sample)?;
    }
    Ok(())
}

/// The label of a protocol. Numbers are not used: they would make a series for each.
fn protocol(number: u8) -> &'static str {
    protocol_name(number).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use sluice_abi::{Addr, proto};

    use super::*;
    use crate::kernel::MapFill;

    #[test]
    fn each_count_is_a_gauge_with_its_labels() {
        let report = SharedReport::default();
        report.update(|report| {
            *report = Report {
                maps: vec![MapFill { map: "FLOWS", entries: 7, capacity: 262_144 }],
                ports_max: 1500,
                destinations: vec![((proto::UDP, Addr::v4([8, 8, 8, 8]), 53), 1500)],
                pods: vec![("default".into(), "web-0".into(), 12)],
            };
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ReportMetrics(report)));
        let text = super::super::metrics::encode(&registry);
        for line in [
            "# TYPE sluice_map_entries gauge",
            "sluice_map_entries{map=\"FLOWS\"} 7",
            "sluice_map_capacity{map=\"FLOWS\"} 262144",
            "sluice_snat_ports_used_max 1500",
            "sluice_snat_ports_used{protocol=\"UDP\",destination=\"8.8.8.8:53\"} 1500",
            "sluice_pod_flow_entries{namespace=\"default\",pod=\"web-0\"} 12",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
