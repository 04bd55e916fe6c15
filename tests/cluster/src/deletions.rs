//! When the API server reports that pods are being deleted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::Namespace;

/// One line for each version of a pod.
const LINE: &str = r#"jsonpath={.metadata.name} {.metadata.deletionTimestamp} {.metadata.deletionGracePeriodSeconds}{"\n"}"#;

/// A deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deletion {
    /// When the API server received it, at the earliest: its times are whole seconds.
    from: SystemTime,
    /// When the watch reported it.
    reported: SystemTime,
}

/// A watch of the pods of a namespace, beside those of the agents: it shows when a client of the API server
/// can know at the earliest that a pod ends.
pub struct Deletions {
    kubectl: Child,
    known: Arc<Mutex<BTreeMap<String, Deletion>>>,
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
        let known = Arc::<Mutex<BTreeMap<String, Deletion>>>::default();
        let found = Arc::clone(&known);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((pod, from)) = deleted(&line) {
                    let deletion = Deletion { from, reported: SystemTime::now() };
                    let mut known = found.lock().unwrap_or_else(PoisonError::into_inner);
                    known.entry(pod.to_owned()).or_insert(deletion);
                }
            }
        });
        Deletions { kubectl, known }
    }

    /// Number of pods whose deletion was reported.
    pub fn count(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The pod that a request of this time may have reached although it had ended, because its deletion was
    /// reported late: it ends `serving` after its deletion, and agents take up to `programming` after the
    /// report. `None` if every report was in time.
    pub fn late_at(
        &self,
        time: SystemTime,
        serving: Duration,
        programming: Duration,
    ) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |d: &Deletion| (d.from + serving..d.reported + programming).contains(&time);
        known.iter().find(|(_, deletion)| late(deletion)).map(|(pod, _)| pod.clone())
    }
}

impl Drop for Deletions {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// The name of the pod and the time of its deletion, if it is being deleted. Its deletionTimestamp is the end
/// of its grace period.
fn deleted(line: &str) -> Option<(&str, SystemTime)> {
    let mut words = line.split(' ');
    let (pod, end, grace) = (words.next()?, words.next()?, words.next()?);
    let end: jiff::Timestamp = end.parse().ok()?;
    Some((pod, SystemTime::from(end).checked_sub(Duration::from_secs(grace.parse().ok()?))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_late_between_the_end_of_a_pod_and_the_time_after_its_report() {
        let from = SystemTime::UNIX_EPOCH;
        let after = |ms| from + Duration::from_millis(ms);
        let late = |reported: u64, ms: u64| {
            let deletion = Deletion { from, reported: after(reported) };
            let known = Arc::new(Mutex::new(BTreeMap::from([("a".to_owned(), deletion)])));
            let kubectl = Command::new("true").spawn().unwrap();
            let deletions = Deletions { kubectl, known };
            let (serving, programming) = (Duration::from_secs(1), Duration::from_millis(500));
            deletions.late_at(after(ms), serving, programming).is_some()
        };
        assert_eq!(
            [0, 999, 1000, 2499, 2500].map(|ms| late(2000, ms)),
            [false, false, true, true, false]
        );
        // In time: no request is excused.
        assert!((0..5000).step_by(100).all(|ms| !late(500, ms)));
    }

    #[test]
    fn line_has_times_if_the_pod_is_being_deleted() {
        let (pod, from) = deleted("web-1 1970-01-01T00:01:10Z 10").unwrap();
        assert_eq!((pod, from), ("web-1", SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
        for line in ["web-1  ", "", "web-1 yesterday 1"] {
            assert_eq!(deleted(line), None, "{line}");
        }
    }
}
