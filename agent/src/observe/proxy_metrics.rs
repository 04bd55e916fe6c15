//! Metrics under the names of kube-proxy, for dashboards and alerts that exist.
//!
//! Both families are programmed together: their values are equal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sluice_core::Changes;

use super::metrics::now;

const FAMILIES: [FamilyLabel; 2] =
    [FamilyLabel { ip_family: "IPv4" }, FamilyLabel { ip_family: "IPv6" }];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

type Seconds = Family<FamilyLabel, Gauge<f64, AtomicU64>>;

/// The metrics.
#[derive(Debug)]
pub struct ProxyMetrics {
    duration: Family<FamilyLabel, Histogram, fn() -> Histogram>,
    last: Seconds,
    last_queued: Seconds,
    services: Count,
    endpoints: Count,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    applied: Mutex<Changes>,
}

/// Changes since the start, and those that are not applied.
#[derive(Debug, Default)]
struct Count {
    total: Counter,
    pending: Gauge,
}

impl Count {
    fn set(&self, total: u64, applied: u64) {
        self.total.inner().store(total, Ordering::Relaxed);
        self.pending.set(i64::try_from(total.saturating_sub(applied)).unwrap_or(i64::MAX));
    }
}

/// kube-proxy's buckets: 1 ms to 16 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for ProxyMetrics {
    fn default() -> ProxyMetrics {
        ProxyMetrics {
            duration: Family::new_with_constructor(buckets),
            last: Family::default(),
            last_queued: Family::default(),
            services: Count::default(),
            endpoints: Count::default(),
            healthz: Family::default(),
            livez: Family::default(),
            applied: Mutex::default(),
        }
    }
}

impl ProxyMetrics {
    /// Records one sync, and the changes of objects until then.
    pub fn synced(&self, took: Duration, changes: Changes, success: bool) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.services != self.services.total.get()
            || changes.endpoint_slices != self.endpoints.total.get()
        {
            for family in &FAMILIES {
                self.last_queued.get_or_create(family).set(now());
            }
        }
        if success {
            *applied = changes;
        }
        self.services.set(changes.services, applied.services);
        self.endpoints.set(changes.endpoint_slices, applied.endpoint_slices);
        for family in &FAMILIES {
            self.duration.get_or_create(family).observe(took.as_secs_f64());
            if success {
                self.last.get_or_create(family).set(now());
            }
        }
    }

    /// Records a response of `/healthz`.
    pub fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&CodeLabel { code }).inc();
    }

    /// Records a response of `/livez`.
    pub fn livez(&self, code: u16) {
        self.livez.get_or_create(&CodeLabel { code }).inc();
    }

    /// Adds the metrics to a registry.
    pub fn register(&self, r: &mut Registry) {
        let rules = |name: &str| format!("kubeproxy_sync_proxy_rules_{name}");
        r.register(rules("duration_seconds"), "Duration of a sync", self.duration.clone());
        r.register(
            rules("last_timestamp_seconds"),
            "Time of the last sync without errors",
            self.last.clone(),
        );
        r.register(
            rules("last_queued_timestamp_seconds"),
            "Time of the last change of a Service or an EndpointSlice",
            self.last_queued.clone(),
        );
        for (name, kind, count) in [
            ("service", "Services", &self.services),
            ("endpoint", "EndpointSlices", &self.endpoints),
        ] {
            r.register(
                rules(&format!("{name}_changes_pending")),
                format!("Changes of {kind} that are not applied"),
                count.pending.clone(),
            );
            r.register(
                rules(&format!("{name}_changes")),
                format!("Changes of {kind}"),
                count.total.clone(),
            );
        }
        let name = |path| format!("kubeproxy_proxy_{path}");
        r.register(name("healthz"), "Responses of /healthz, by code", self.healthz.clone());
        r.register(name("livez"), "Responses of /livez, by code", self.livez.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::encode;

    #[test]
    fn contract_6_8_metrics_have_the_names_and_labels_of_kube_proxy() {
        let metrics = ProxyMetrics::default();
        let changes = |services, endpoint_slices| Changes { services, endpoint_slices };
        metrics.synced(Duration::from_millis(3), changes(2, 5), true);
        metrics.synced(Duration::from_millis(3), changes(3, 7), false);
        metrics.healthz(200);
        metrics.healthz(503);
        metrics.livez(200);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let text = encode(&registry);
        for line in [
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 2",
            "# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge",
            "# TYPE kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 3",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 7",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        metrics.synced(Duration::ZERO, changes(3, 7), true);
        let text = encode(&registry);
        assert!(text.contains("kubeproxy_sync_proxy_rules_endpoint_changes_pending 0"), "{text}");
    }
}
