//! When the API server reports that pods are being deleted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::Namespace;

/// One line for each version of a pod.
const LINE: &str = r#"jsonpath={.metadata.name} {.metadata.deletionTimestamp}{"\n"}"#;

/// A watch of the pods of a namespace, beside those of the agents: it shows when a client of the API server
/// can know at the earliest that a pod ends.
pub struct Deletions {
    kubectl: Child,
    reported: Arc<Mutex<BTreeMap<String, SystemTime>>>,
}

impl Deletions {
    /// Starts the watch.
    #[track_caller]
    pub fn watch(namespace: &Namespace) -> Deletions {
        let mut kubectl = Command::new("kubectl")
            .args(["-n", &namespace.name, "get", "pods", "--watch", "-o", LINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("kubectl: {e}"));
        let output = BufReader::new(kubectl.stdout.take().unwrap());
        let reported = Arc::<Mutex<BTreeMap<String, SystemTime>>>::default();
        let known = Arc::clone(&reported);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(pod) = deleted(&line) {
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.entry(pod.to_owned()).or_insert_with(SystemTime::now);
                }
            }
        });
        Deletions { kubectl, reported }
    }

    /// Number of pods whose deletion was reported.
    pub fn count(&self) -> usize {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The pod whose deletion was reported after `time`, or so little before it that it could not be
    /// programmed: within `programming`.
    pub fn unknown_at(&self, time: SystemTime, programming: Duration) -> Option<String> {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        unknown_at(&reported, time, programming)
    }
}

impl Drop for Deletions {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// The name of the pod, if it is being deleted.
fn deleted(line: &str) -> Option<&str> {
    let (pod, time) = line.split_once(' ')?;
    (!time.is_empty()).then_some(pod)
}

/// Longest time between the end of a pod and the report of its deletion: a later report is about another one.
const LATE: Duration = Duration::from_secs(10);

fn unknown_at(
    reported: &BTreeMap<String, SystemTime>,
    time: SystemTime,
    programming: Duration,
) -> Option<String> {
    let is_unknown = |at: SystemTime| at + programming > time && at < time + LATE;
    reported.iter().find(|(_, at)| is_unknown(**at)).map(|(pod, _)| pod.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deletions_that_were_not_reported_in_time_are_unknown() {
        let start = SystemTime::now();
        let after = |ms| start + Duration::from_millis(ms);
        let reported = [("a".to_owned(), after(1000))].into();
        let unknown = |ms| unknown_at(&reported, after(ms), Duration::from_millis(500)).is_some();
        // Before the report and shortly after it; not when the agents had time, nor long before.
        assert_eq!([0, 1400, 1500, 5000].map(unknown), [true, true, false, false]);
        let late = [("a".to_owned(), after(20_000))].into();
        assert_eq!(unknown_at(&late, start, Duration::ZERO), None);
    }

    #[test]
    fn line_has_a_time_if_the_pod_is_being_deleted() {
        assert_eq!(deleted("web-1 2026-11-27T22:00:00Z"), Some("web-1"));
        assert_eq!(deleted("web-1 "), None);
        assert_eq!(deleted(""), None);
    }
}
