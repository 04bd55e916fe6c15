//! Metrics of NetworkPolicies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_core::policy::Finding;

/// Metrics of NetworkPolicies; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct PolicyMetrics {
    policies: Gauge,
    programmed: Gauge<f64, AtomicU64>,
    findings: Family<ReasonLabel, Gauge>,
    drops: Family<PolicyLabels, Counter>,
    /// Events of dropped packets that were not examined.
    pub lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    namespace: String,
    policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl PolicyMetrics {
    /// Records the number of policies, how long the last change took, and the problems.
    pub fn observe<'a>(
        &self,
        policies: usize,
        programmed: Option<Duration>,
        findings: impl Iterator<Item = &'a Finding>,
    ) {
        self.policies.set(i64::try_from(policies).unwrap_or(i64::MAX));
        self.programmed.set(programmed.unwrap_or_default().as_secs_f64());
        let mut by_reason: BTreeMap<&'static str, i64> = BTreeMap::new();
        for finding in findings {
            *by_reason.entry(finding.reason.name()).or_default() += 1;
        }
        self.findings.clear();
        for (reason, count) in by_reason {
            self.findings.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }

    /// Sets the number of sampled drops by namespace and name of a policy.
    pub fn dropped(&self, drops: &BTreeMap<(String, String), u64>) {
        for ((namespace, policy), count) in drops {
            let labels = PolicyLabels { namespace: namespace.clone(), policy: policy.clone() };
            self.drops.get_or_create(&labels).inner().store(*count, Ordering::Relaxed);
        }
    }

    /// Adds the metrics.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "sluice_network_policies",
            "NetworkPolicies of the cluster",
            self.policies.clone(),
        );
        r.register(
            "sluice_policy_programming_seconds",
            "Time from the compilation of the last change of policies until its last row was written",
            self.programmed.clone(),
        );
        r.register(
            "sluice_policy_findings",
            "Problems of NetworkPolicies, by reason of the Event",
            self.findings.clone(),
        );
        r.register(
            "sluice_policy_drops",
            "Sampled packets that policies dropped, by the policy with the nearest rule",
            self.drops.clone(),
        );
        r.register(
            "sluice_drop_events_lost",
            "Events of dropped packets that were not examined",
            self.lost.clone(),
        );
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
        metrics.observe(3, Some(Duration::from_millis(5)), found.iter());
        metrics.dropped(&[(("shop".to_owned(), "db".to_owned()), 7)].into());
        let text = super::super::metrics::encode(&registry);
        for line in [
            "sluice_network_policies 3",
            "sluice_policy_programming_seconds 0.005",
            "sluice_policy_drops_total{namespace=\"shop\",policy=\"db\"} 7",
            "sluice_policy_findings{reason=\"InvalidPart\"} 2",
            "sluice_policy_findings{reason=\"UndefinedPort\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        metrics.observe(3, None, [].iter());
        assert!(!super::super::metrics::encode(&registry).contains("InvalidPart"));
    }
}
