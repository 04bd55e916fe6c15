//! Metrics in the Prometheus text format, version 0.0.4.
//!
//! Names and labels are an interface: dashboards depend on them, `agent/README.md` lists them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::condition_metrics::ConditionMetrics;
use super::policy_metrics::PolicyMetrics;
use super::proxy_metrics::ProxyMetrics;
use super::report_metrics::ReportMetrics;
use super::timestamp::now;
use crate::counters::Count;
use crate::flows::FlowStats;
use crate::notices::CniStats;
use crate::version::{REVISION, VERSION};
use crate::watches::{Watch, Watches};

/// Content type of [`encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Upper bounds of the sync duration's buckets: 0.5 ms to 16 s.
const DURATION_BUCKETS: (f64, f64, u16) = (0.0005, 2.0, 16);

// The encoder appends `_total` to the names of counters and a full stop to the help texts.
const KERNEL_FAMILIES: &[KernelFamily] = &[
    KernelFamily {
        name: "sluice_dropped_packets",
        help: "Packets dropped or rejected by the eBPF programs, by reason",
        kind: "drop",
        label: "reason",
        value: |count| count.packets,
    },
    KernelFamily {
        name: "sluice_dropped_bytes",
        help: "Bytes dropped or rejected by the eBPF programs, by reason",
        kind: "drop",
        label: "reason",
        value: |count| count.bytes,
    },
    KernelFamily {
        name: "sluice_packets",
        help: "Packets processed by the eBPF programs, by outcome",
        kind: "outcome",
        label: "outcome",
        value: |count| count.packets,
    },
    KernelFamily {
        name: "sluice_bytes",
        help: "Bytes processed by the eBPF programs, by outcome",
        kind: "outcome",
        label: "outcome",
        value: |count| count.bytes,
    },
    KernelFamily {
        name: "sluice_drop_events_lost",
        help: "Dropped packets that sluice drops and sluice_policy_drops_total lack, by reason: rate_limit, \
               buffer_full (not reported by the eBPF programs), not_examined (by the agent, since its start)",
        kind: Count::LOST_EVENT,
        label: "reason",
        value: |count| count.packets,
    },
];

/// Metrics of syncs; clones share their values.
#[derive(Clone, Debug)]
pub struct SyncMetrics {
    syncs: Counter,
    errors: Counter,
    seconds: Counter<f64, AtomicU64>,
    duration: Histogram,
    last: Gauge<f64, AtomicU64>,
    ready: Gauge,
    rows: Family<TableLabel, Gauge>,
    repairs: Family<KindLabel, Counter>,
    /// Under the names of kube-proxy.
    pub proxy: Arc<ProxyMetrics>,
    /// Of NetworkPolicies.
    pub policy: PolicyMetrics,
    /// Of conditions.
    pub conditions: ConditionMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabel {
    table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// The kernel's counters, read at each scrape.
struct KernelCounters<F>(F);

/// A metric of the kernel's counters, with one sample per counter of its kind.
struct KernelFamily {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    label: &'static str,
    value: fn(&Count) -> u64,
}

impl Default for SyncMetrics {
    fn default() -> SyncMetrics {
        let (start, factor, length) = DURATION_BUCKETS;
        let metrics = SyncMetrics {
            syncs: Counter::default(),
            errors: Counter::default(),
            seconds: Counter::default(),
            duration: Histogram::new(exponential_buckets(start, factor, length)),
            last: Gauge::default(),
            ready: Gauge::default(),
            rows: Family::default(),
            repairs: Family::default(),
            proxy: Arc::default(),
            policy: PolicyMetrics::default(),
            conditions: ConditionMetrics::default(),
        };
        metrics.last.set(now());
        metrics
    }
}

impl SyncMetrics {
    /// Records one sync.
    pub fn synced(&self, took: Duration, rows: &[(&'static str, usize)], success: bool) {
        self.syncs.inc();
        self.seconds.inc_by(took.as_secs_f64());
        self.duration.observe(took.as_secs_f64());
        for (table, n) in rows {
            let n = i64::try_from(*n).unwrap_or(i64::MAX);
            self.rows.get_or_create(&TableLabel { table }).set(n);
        }
        if success {
            self.last.set(now());
        } else {
            self.errors.inc();
        }
    }

    /// Sets the number of repairs since the start, by kind.
    pub fn repaired(&self, repairs: &BTreeMap<&'static str, u64>) {
        for (kind, count) in repairs {
            let counter = self.repairs.get_or_create(&KindLabel { kind });
            counter.inner().store(*count, Ordering::Relaxed);
        }
    }

    /// Sets the value of `sluice_ready`.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }
}

impl<F> fmt::Debug for KernelCounters<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelCounters")
    }
}

impl<F: Fn() -> Vec<Count> + Send + Sync + 'static> Collector for KernelCounters<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = (self.0)();
        for KernelFamily { name, help, kind, label, value } in KERNEL_FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for count in counts.iter().filter(|c| c.kind == *kind) {
                let labels = [(*label, count.label.as_str())];
                let sample = family.encode_family(&labels)?;
                ConstCounter::new(value(count)).encode(sample)?;
            }
        }
        Ok(())
    }
}

/// The watches of the API server, at each scrape.
struct WatchMetrics(Watches);

impl fmt::Debug for WatchMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchMetrics")
    }
}

const WATCH_FAMILIES: &[WatchFamily] = &[
    WatchFamily {
        name: "sluice_watch_synced",
        help: "Whether all objects of the kind have been listed",
        value: |watch| Some(u64::from(watch.synced)),
    },
    WatchFamily {
        name: "sluice_watch_idle_seconds",
        help: "Seconds since the API server last sent a part of a list, an event or a bookmark",
        value: |watch| watch.idle_seconds,
    },
    WatchFamily {
        name: "sluice_watch_failing_seconds",
        help: "Seconds since the watch fails, 0 while it works",
        value: |watch| Some(watch.failing_seconds.unwrap_or(0)),
    },
];

/// A gauge of each watch.
struct WatchFamily {
    name: &'static str,
    help: &'static str,
    value: fn(&Watch) -> Option<u64>,
}

impl Collector for WatchMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let watches = self.0.report();
        for WatchFamily { name, help, value } in WATCH_FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for watch in &watches {
                if let Some(value) = value(watch) {
                    let labels = [("kind", watch.kind.as_str())];
                    let sample = family.encode_family(&labels)?;
                    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(sample)?;
                }
            }
        }
        let name = "sluice_watch_failures";
        let help = "Failed attempts to list or watch";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for watch in &watches {
            let labels = [("kind", watch.kind.as_str())];
            let sample = family.encode_family(&labels)?;
            ConstCounter::new(watch.failures).encode(sample)?;
        }
        Ok(())
    }
}

/// All metrics; `counts` reads the kernel's counters.
pub fn registry(
    sync: &SyncMetrics,
    watches: &Watches,
    flows: &FlowStats,
    cni: &CniStats,
    counts: impl Fn() -> Vec<Count> + Send + Sync + 'static,
) -> Registry {
    let mut registry = Registry::default();
    let r = &mut registry;
    r.register_collector(Box::new(WatchMetrics(watches.clone())));
    r.register_collector(Box::new(KernelCounters(counts)));
    r.register_collector(Box::new(ReportMetrics(flows.report.clone())));
    sync.proxy.register(r);
    sync.policy.register(r);
    r.register_collector(Box::new(sync.conditions.clone()));
    r.register("sluice_syncs", "Syncs of the kernel with the desired state", sync.syncs.clone());
    r.register("sluice_sync_errors", "Syncs that failed and were retried", sync.errors.clone());
    r.register("sluice_sync_seconds", "Time spent in syncs", sync.seconds.clone());
    r.register("sluice_sync_duration_seconds", "Duration of a sync", sync.duration.clone());
    r.register(
        "sluice_last_sync_timestamp_seconds",
        "Time of the last sync without errors",
        sync.last.clone(),
    );
    r.register("sluice_ready", "Whether CNI ADD can succeed on this node", sync.ready.clone());
    r.register("sluice_table_rows", "Rows of the desired tables", sync.rows.clone());
    r.register(
        "sluice_repairs",
        "Changes by other programs that were repaired, by kind",
        sync.repairs.clone(),
    );
    flows.register(r);
    r.register(
        "sluice_cni_duration_seconds",
        "Duration of calls of the CNI binary, by verb",
        cni.duration.clone(),
    );
    r.register("sluice_cni_errors", "Failed calls of the CNI binary", cni.errors.clone());
    r.register(
        "sluice_cni_notices_ignored",
        "Datagrams on the socket of the CNI binary that were ignored",
        cni.ignored.clone(),
    );
    let sources = [("version", VERSION), ("revision", REVISION)];
    let build = Family::<[(&str, &str); 2], Gauge>::default();
    build.get_or_create(&sources).set(1);
    r.register("sluice_build_info", "Version of the agent and git revision of its sources", build);
    registry
}

/// All metrics as text.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::with_capacity(8192);
    // Writing to a String does not fail.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(kind: &str, label: &str, packets: u64, bytes: u64) -> Count {
        Count { kind: kind.into(), label: label.into(), packets, bytes }
    }

    fn render(sync: &SyncMetrics) -> String {
        let watches = Watches::default();
        let state = watches.add("Service");
        state.received();
        state.failed("refused");
        encode(&registry(sync, &watches, &FlowStats::default(), &CniStats::default(), || {
            vec![
                count("drop", "spoofed_source", 7, 420),
                count("outcome", "to_pod", 3, 100),
                count("lost_event", "rate_limit", 4, 240),
                Count::not_examined(2),
            ]
        }))
    }

    #[test]
    fn metrics_have_the_documented_names_types_and_values() {
        let sync = SyncMetrics::default();
        sync.synced(Duration::from_millis(1500), &[("frontends", 3)], true);
        sync.synced(Duration::from_millis(500), &[("frontends", 4)], false);
        sync.set_ready(true);
        sync.repaired(&[("pod_route", 2)].into());
        sync.repaired(&[("pod_route", 3)].into());
        let text = render(&sync);
        for line in [
            "# TYPE sluice_dropped_packets_total counter",
            "sluice_dropped_packets_total{reason=\"spoofed_source\"} 7",
            "sluice_dropped_bytes_total{reason=\"spoofed_source\"} 420",
            "sluice_drop_events_lost_total{reason=\"rate_limit\"} 4",
            "sluice_drop_events_lost_total{reason=\"not_examined\"} 2",
            "sluice_packets_total{outcome=\"to_pod\"} 3",
            "sluice_bytes_total{outcome=\"to_pod\"} 100",
            "# HELP sluice_syncs_total Syncs of the kernel with the desired state.",
            "sluice_syncs_total 2",
            "sluice_sync_errors_total 1",
            "sluice_sync_seconds_total 2.0",
            "# TYPE sluice_sync_duration_seconds histogram",
            "sluice_sync_duration_seconds_bucket{le=\"0.512\"} 1",
            "sluice_sync_duration_seconds_bucket{le=\"2.048\"} 2",
            "sluice_sync_duration_seconds_count 2",
            "# TYPE sluice_last_sync_timestamp_seconds gauge",
            "sluice_table_rows{table=\"frontends\"} 4",
            "sluice_ready 1",
            "sluice_repairs_total{kind=\"pod_route\"} 3",
            "sluice_watch_synced{kind=\"Service\"} 0",
            "sluice_watch_idle_seconds{kind=\"Service\"} 0",
            "sluice_watch_failing_seconds{kind=\"Service\"} 0",
            "sluice_watch_failures_total{kind=\"Service\"} 1",
            &format!("sluice_build_info{{version=\"{VERSION}\",revision=\"{REVISION}\"}} 1"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn failed_sync_does_not_move_the_time_of_the_last_sync() {
        let sync = SyncMetrics::default();
        sync.last.set(1.0);
        sync.synced(Duration::ZERO, &[], false);
        assert_eq!(sync.last.get(), 1.0);
        sync.synced(Duration::ZERO, &[], true);
        assert!(sync.last.get() > 1e9, "{}", sync.last.get());
    }

    #[test]
    fn every_metric_is_listed_in_the_readme() {
        let readme = include_str!("../../README.md");
        for line in render(&SyncMetrics::default()).lines() {
            if let Some(name) = line.strip_prefix("# TYPE ").and_then(|l| l.split(' ').next()) {
                assert!(readme.contains(&format!("`{name}")), "{name} is missing in README.md");
            }
        }
    }
}
