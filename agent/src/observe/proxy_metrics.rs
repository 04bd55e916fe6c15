//! Metrics under the names of kube-proxy, for dashboards and alerts that exist.
//!
//! Both families are programmed together: their values are equal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sluice_core::Changes;
use sluice_core::tables::WithoutLocal;

use super::timestamp::now;
use crate::state::Cause;

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    traffic_policy: &'static str,
    ip_family: &'static str,
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
    programming: Family<FamilyLabel, Histogram, fn() -> Histogram>,
    without_local: Family<PolicyLabel, Gauge>,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    /// Causes before the start of the agent are not programmed late by it.
    started: SystemTime,
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

/// kube-proxy's buckets: 0.25 s to 5 min.
fn programming_buckets() -> Histogram {
    let seconds = (1..=59).chain((0..12).map(|n| 60 + 5 * n)).chain((0..7).map(|n| 120 + 30 * n));
    Histogram::new([0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
}

impl Default for ProxyMetrics {
    fn default() -> ProxyMetrics {
        ProxyMetrics {
            duration: Family::new_with_constructor(buckets),
            last: Family::default(),
            last_queued: Family::default(),
            services: Count::default(),
            endpoints: Count::default(),
            programming: Family::new_with_constructor(programming_buckets),
            without_local: Family::default(),
            started: SystemTime::now(),
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

    /// Records the time from the causes of changes until now, when they are programmed.
    pub fn programmed(&self, causes: &[Cause], now: SystemTime) {
        let millis = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH);
        let (Ok(started), Ok(now)) = (millis(self.started), millis(now)) else { return };
        for cause in causes {
            let at = Duration::from_millis(u64::try_from(cause.at).unwrap_or_default());
            if at > started {
                let took = now.saturating_sub(at).as_secs_f64();
                let [v4, v6] = &FAMILIES;
                let family = if cause.v6 { v6 } else { v4 };
                self.programming.get_or_create(family).observe(took);
            }
        }
    }

    /// Records the Service ports without endpoints on this node.
    pub fn without_local(&self, counts: WithoutLocal) {
        let policies = [("internal", counts.internal), ("external", counts.external)];
        for (traffic_policy, counts) in policies {
            for (FamilyLabel { ip_family }, count) in FAMILIES.iter().zip(counts) {
                let label = PolicyLabel { traffic_policy, ip_family };
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.without_local.get_or_create(&label).set(count);
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
        r.register(
            rules("no_local_endpoints_total"),
            "Service ports with traffic policy Local that have endpoints on other nodes only",
            self.without_local.clone(),
        );
        r.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of a Pod or Service until its endpoints are programmed",
            self.programming.clone(),
        );
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
        let started = metrics.started;
        let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let at = |millis: i64| i64::try_from(since.as_millis()).unwrap() + millis;
        let causes = [(1000, false), (1500, true), (-5000, false)];
        let causes = causes.map(|(millis, v6)| Cause { at: at(millis), v6 });
        metrics.programmed(&causes, started + Duration::from_millis(1700));
        metrics.without_local(WithoutLocal { internal: [1, 2], external: [0, 3] });
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
            "# TYPE kubeproxy_network_programming_duration_seconds histogram",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.5\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"1\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.25\"} 1",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\",ip_family=\"IPv6\"} 3",
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
