//! Metrics of the conditions that are set.
//!
//! A series exists while its condition is set. `sluice status` has the messages.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::report_metrics::gauge;
use crate::conditions::{Concern, Conditions, Status};

/// The conditions of the last pass; clones share them.
#[derive(Clone, Debug, Default)]
pub struct ConditionMetrics(Arc<Mutex<Vec<(Concern, Status)>>>);

impl ConditionMetrics {
    /// Replaces the conditions.
    pub fn set(&self, conditions: &Conditions) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clear();
        shown.extend(conditions.iter().map(|condition| (condition.concern, condition.status)));
    }
}

impl Collector for ConditionMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "1 for each condition that is set, as in sluice status";
        let shown =
            shown.into_iter().map(|(concern, status)| (concern.to_string(), status.to_string()));
        let shown: Vec<(String, String)> = shown.collect();
        let samples = shown.iter().map(|(concern, status)| {
            ([("type", concern.as_str()), ("status", status.as_str())], 1)
        });
        gauge(&mut encoder, "sluice_condition", help, samples)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn series_exists_while_the_condition_is_set() {
        let metrics = ConditionMetrics::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        let mut conditions = Conditions::default();
        conditions.set(Concern::Routes, Status::Failed, "refused".into(), Instant::now());
        conditions.set(Concern::StalePins, Status::Waiting, "later".into(), Instant::now());
        metrics.set(&conditions);
        let text = super::super::metrics::encode(&registry);
        let failed = "sluice_condition{type=\"Routes\",status=\"Failed\"} 1";
        let waiting = "sluice_condition{type=\"StalePins\",status=\"Waiting\"} 1";
        for line in ["# TYPE sluice_condition gauge", failed, waiting] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        conditions.clear(Concern::Routes);
        metrics.set(&conditions);
        let text = super::super::metrics::encode(&registry);
        assert!(!text.contains("Routes") && text.contains(waiting), "{text}");
    }
}
