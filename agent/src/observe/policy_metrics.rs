//! Metrics of policies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sluice_core::policy::Finding;

/// Metrics of policies; clones share their values.
#[derive(Clone, Debug)]
pub struct PolicyMetrics {
    network_policies: Gauge,
    cluster_network_policies: Gauge,
    programmed: Gauge<f64, AtomicU64>,
    durations: Histogram,
    /// Number of changes in `durations`.
    observed: Arc<AtomicU64>,
    findings: Family<ReasonLabel, Gauge>,
    drops: PolicyDrops,
}

impl Default for PolicyMetrics {
    fn default() -> PolicyMetrics {
        PolicyMetrics {
            network_policies: Gauge::default(),
            cluster_network_policies: Gauge::default(),
            programmed: Gauge::default(),
            // 0.1 ms to 26 s: a label takes less than a millisecond, larger maps take seconds.
            durations: Histogram::new(exponential_buckets(0.0001, 4.0, 10)),
            observed: Arc::default(),
            findings: Family::default(),
            drops: PolicyDrops::default(),
        }
    }
}

/// Sampled drops by namespace and name of a policy; clones share them.
#[derive(Clone, Debug, Default)]
struct PolicyDrops(Arc<Mutex<BTreeMap<(String, String), u64>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl PolicyMetrics {
    /// Records the numbers of policies, the number of changes and how long the last one took, and the problems.
    /// Called after each pass, in which at most one change is programmed.
    pub fn observe<'a>(
        &self,
        [network_policies, cluster_network_policies]: [usize; 2],
        (changes, programmed): (u64, Option<Duration>),
        findings: impl Iterator<Item = &'a Finding>,
    ) {
        let count = |policies: usize| i64::try_from(policies).unwrap_or(i64::MAX);
        self.network_policies.set(count(network_policies));
        self.cluster_network_policies.set(count(cluster_network_policies));
        let seconds = programmed.unwrap_or_default().as_secs_f64();
        self.programmed.set(seconds);
        if self.observed.swap(changes, Ordering::Relaxed) != changes {
            self.durations.observe(seconds);
        }
        let mut by_reason: BTreeMap<&'static str, i64> = BTreeMap::new();
        for finding in findings {
            *by_reason.entry(finding.reason.name()).or_default() += 1;
        }
        self.findings.clear();
        for (reason, count) in by_reason {
            self.findings.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }

    /// Sets the number of sampled drops by namespace and name of a policy; a ClusterNetworkPolicy has no
    /// namespace. Other series end.
    pub fn dropped(&self, drops: &BTreeMap<(String, String), u64>) {
        let mut shown = self.drops.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|policy, _| drops.contains_key(policy));
        for (policy, count) in drops {
            match shown.get_mut(policy) {
                Some(shown) => *shown = *count,
                None => drop(shown.insert(policy.clone(), *count)),
            }
        }
    }

    /// Adds the metrics.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "sluice_network_policies",
            "NetworkPolicies of the cluster",
            self.network_policies.clone(),
        );
        r.register(
            "sluice_cluster_network_policies",
            "ClusterNetworkPolicies of the cluster",
            self.cluster_network_policies.clone(),
        );
        r.register(
            "sluice_policy_programming_seconds",
            "Time from the compilation of the last change of policies until its last row was written, \
             in larger maps if it waited for such",
            self.programmed.clone(),
        );
        r.register(
            "sluice_policy_programming_duration_seconds",
            "As sluice_policy_programming_seconds, of all changes",
            self.durations.clone(),
        );
        r.register(
            "sluice_policy_findings",
            "Problems of policies, by reason of the Event",
            self.findings.clone(),
        );
        r.register_collector(Box::new(self.drops.clone()));
    }
}

impl Collector for PolicyDrops {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Sampled packets that policies dropped, by the policy that denies or whose rule is nearest, \
                    until it is deleted; without labels: drops of policies beyond 200, or without a reason";
        let name = "sluice_policy_drops";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((namespace, policy), count) in &shown {
            let labels = [("namespace", namespace.as_str()), ("policy", policy.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::ObjectName;
    use sluice_core::model::Kind;
    use sluice_core::policy::FindingReason;

    use super::*;

    #[test]
    fn findings_are_counted_by_reason_and_end() {
        let metrics = PolicyMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let finding = |name: &str, reason| Finding {
            kind: Kind::NetworkPolicy,
            object: ObjectName::new("shop", name),
            reason,
            text: String::new(),
        };
        let found = [
            finding("a", FindingReason::InvalidPart),
            finding("b", FindingReason::InvalidPart),
            finding("a", FindingReason::UndefinedPort),
        ];
        let took = |changes| (changes, Some(Duration::from_millis(5)));
        metrics.observe([3, 2], took(1), found.iter());
        // A pass without a change.
        metrics.observe([3, 2], took(1), found.iter());
        metrics.observe([3, 2], took(2), found.iter());
        let drops = [(("shop", "db"), 7), (("", "no-metadata"), 2)];
        let owned = |((n, p), c): ((&str, &str), _)| ((n.to_owned(), p.to_owned()), c);
        metrics.dropped(&drops.map(owned).into());
        let text = super::super::metrics::encode(&registry);
        for line in [
            "sluice_network_policies 3",
            "sluice_cluster_network_policies 2",
            "sluice_policy_programming_seconds 0.005",
            "sluice_policy_programming_duration_seconds_count 2",
            "sluice_policy_programming_duration_seconds_bucket{le=\"0.0064\"} 2",
            "sluice_policy_drops_total{namespace=\"shop\",policy=\"db\"} 7",
            "sluice_policy_drops_total{namespace=\"\",policy=\"no-metadata\"} 2",
            "sluice_policy_findings{reason=\"InvalidPart\"} 2",
            "sluice_policy_findings{reason=\"UndefinedPort\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        metrics.observe([3, 2], (2, None), [].iter());
        metrics.dropped(&[(("", "no-metadata"), 3), (("", ""), 1)].map(owned).into());
        let text = super::super::metrics::encode(&registry);
        assert!(!text.contains("InvalidPart") && !text.contains("policy=\"db\""), "{text}");
        for line in [
            "sluice_policy_drops_total{namespace=\"\",policy=\"no-metadata\"} 3",
            "sluice_policy_drops_total{namespace=\"\",policy=\"\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
