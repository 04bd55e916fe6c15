//! Sets of a client and two servers, one set for each number of policies, which are measured in turns of 20 ms.
//!
//! ```text
//! round:          0      1      2      3
//! set 0 has       0      1    100 10,000 policies: each set has each number in as many rounds
//! set 1 has       1    100 10,000      0
//! ...
//! turns:    20 ms of each set, one after the other, by one process on the node of the clients
//! ```
//! What else the machine does affects all numbers alike, and what distinguishes the sets, such as the places of
//! their pods in tables, affects each number as often.

use std::iter;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::policies::{ROLE, SELECTED};
use super::subject::Subject;
use crate::bench::cluster::PORT;
use crate::bench::report::{Load, place};
use crate::bench::{attempts, objects};
use crate::progress;

/// Label of the pods with the number of their set.
const SET: &str = "set";
/// Pods of a set: name, role, and whether it is on the client's node.
const PODS: [(&str, &str, bool); 3] =
    [("set-client", "client", true), ("set-near", "server", true), ("set-far", "server", false)];
/// Time until the pods run, and until other policies apply, on a busy machine.
const READY: Duration = Duration::from_secs(120);
/// Duration of the measurement that checks whether the servers answer.
const PROBE: Duration = Duration::from_millis(50);

/// The sets of a cluster.
pub struct Sets<'a> {
    subject: &'a Subject,
    sizes: &'a [usize],
    /// The addresses of each set, in the order of [`PODS`].
    addresses: Vec<[String; PODS.len()]>,
    /// The round whose numbers of policies select the sets; `None` if the last change did not finish.
    round: Option<usize>,
}

impl<'a> Sets<'a> {
    /// Creates as many sets as there are sizes; no policy selects them yet.
    ///
    /// # Errors
    /// When the pods do not run in time, or kubectl fails.
    pub fn create(subject: &'a Subject, sizes: &'a [usize]) -> Result<Sets<'a>> {
        let cluster = &subject.cluster;
        objects::create(cluster, "sets of pods", 0..sizes.len(), |set| pods(subject, set))?;
        let wait = ["wait", "pod", "-l", SET, "--for=condition=Ready", "--timeout=5s"];
        progress::wait("sets of pods", READY, || {
            cluster.kubectl(&wait).map_err(|error| error.to_string())
        })?;
        let mut addresses = Vec::new();
        for set in 0..sizes.len() {
            for (pod, role, _) in PODS {
                if role == "server" {
                    cluster.pin(&name(pod, set))?;
                }
            }
            let names = PODS.map(|(pod, _, _)| name(pod, set));
            let path = "jsonpath={range .items[*]}{.status.podIP} {end}";
            let get = ["get", "pod", &names[0], &names[1], &names[2], "-o", path];
            let text = cluster.kubectl(&get)?;
            let list: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let list = list.try_into().ok().with_context(|| format!("addresses: {text:?}"))?;
            addresses.push(list);
        }
        Ok(Sets { subject, sizes, addresses, round: None })
    }

    /// The rate with each number of policies, in the order of the sizes, measured in turns.
    ///
    /// # Errors
    /// When other policies do not apply in time, or every attempt fails.
    pub fn sample(
        &mut self,
        round: usize,
        load: Load,
        same_node: bool,
        duration: Duration,
    ) -> Result<Vec<f64>> {
        self.select(round)?;
        let label = format!("{}, {}", load.label(), place(same_node));
        let clients: Vec<String> =
            self.addresses.iter().map(|[client, _, _]| client.clone()).collect();
        let server =
            |[_, near, far]: &[String; 3]| format!("{}:{PORT}", if same_node { near } else { far });
        let servers: Vec<String> = self.addresses.iter().map(server).collect();
        let sample = |duration| {
            let rates = self.subject.cluster.samples_from(load, &clients, &servers, duration);
            rates.with_context(|| label.clone())
        };
        let answers =
            || progress::wait(&label, READY, || sample(PROBE).map(drop).map_err(|e| e.to_string()));
        by_size(round, &attempts(|| sample(duration), answers)?)
    }

    /// Lets the policies of a round select the sets, and waits until both agents have programmed it.
    fn select(&mut self, round: usize) -> Result<()> {
        if self.round == Some(round) {
            return Ok(());
        }
        self.round = None;
        // The agents show how many pods a policy selects, not which: at first none.
        let label = |selector: &str, number: usize| {
            let label = format!("{SELECTED}={number}");
            self.subject.cluster.kubectl(&["label", "pod", "-l", selector, "--overwrite", &label])
        };
        label(SET, 0)?;
        self.subject.wait_selected(&[])?;
        for (set, size) in sizes_of_sets(round, self.sizes.len()).enumerate() {
            let number = self.sizes.get(size).copied().unwrap_or_default();
            label(&format!("{SET}={set}"), number)?;
        }
        self.subject.wait_selected(self.sizes)?;
        self.round = Some(round);
        Ok(())
    }

    /// Removes the pods.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn remove(self) -> Result<()> {
        self.subject.cluster.kubectl(&["delete", "pod", "-l", SET]).map(drop)
    }
}

/// Rounds in which each set has each of so many sizes equally often: as many as asked for, or a few more.
pub fn rounds(least: usize, sizes: usize) -> usize {
    least.next_multiple_of(sizes)
}

/// For each set, the size that it has in a round, by its place among the sizes.
fn sizes_of_sets(round: usize, sizes: usize) -> impl Iterator<Item = usize> {
    (0..sizes).map(move |set| (set + round) % sizes)
}

/// The samples of the sets of a round in the order of the sizes.
fn by_size(round: usize, of_sets: &[f64]) -> Result<Vec<f64>> {
    let mut sorted: Vec<(usize, f64)> =
        iter::zip(sizes_of_sets(round, of_sets.len()), of_sets.iter().copied()).collect();
    sorted.sort_by_key(|(size, _)| *size);
    ensure!(!sorted.is_empty(), "no samples");
    Ok(sorted.into_iter().map(|(_, sample)| sample).collect())
}

fn name(pod: &str, set: usize) -> String {
    format!("{pod}-{set}")
}

/// The pods of a set.
fn pods(subject: &Subject, set: usize) -> Vec<Value> {
    let pod = |(pod, role, of_client): (&str, &str, bool)| {
        let labels = json!({SET: set.to_string(), ROLE: role, SELECTED: "0"});
        subject.pod(&name(pod, set), &labels, of_client, &[])
    };
    PODS.into_iter().map(pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_has_each_size_equally_often_and_each_size_is_once_in_a_round() {
        for sizes in 2..=5 {
            let rounds = rounds(9, sizes);
            assert!((9..9 + sizes).contains(&rounds), "{rounds}");
            let mut count = vec![vec![0; sizes]; sizes];
            for round in 0..rounds {
                let mut once = vec![false; sizes];
                for (set, size) in sizes_of_sets(round, sizes).enumerate() {
                    count[set][size] += 1;
                    assert!(!std::mem::replace(&mut once[size], true), "{size} twice");
                }
            }
            assert!(count.iter().flatten().all(|n| *n == rounds / sizes), "{count:?}");
        }
    }

    #[test]
    fn sample_is_that_of_the_set_that_has_the_size() {
        // The set with size n has the rate n.
        for round in 0..8 {
            let of_sets: Vec<f64> = sizes_of_sets(round, 4).map(|size| size as f64).collect();
            assert_eq!(by_size(round, &of_sets).ok(), Some(vec![0.0, 1.0, 2.0, 3.0]), "{round}");
        }
    }
}
