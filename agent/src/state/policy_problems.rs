//! Problems of policies: one condition for what is not in the maps, a line of the status for mistakes in objects,
//! and findings, which become log lines and Events.
//!
//! Problems are collected when something changed. All present ones are sent again at intervals, a part at a
//! time: Events expire, a write fails, and what does not fit into the queue is dropped. `findings` decides which
//! of them are reported again.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::{Duration, Instant};

use sluice_core::model::{Kind, Uid};
use sluice_core::policy;
use sluice_core::{Index, ObjectName};

use super::State;
use super::conflict::bounded;
use crate::conditions::{Concern, Status};
use crate::findings::{Finding, Reason};

/// Shortest time between two collections: policies are checked when they change, but all problems are put
/// together.
const COLLECT: Duration = Duration::from_secs(5);

/// Problems that one message names.
const NAMED: usize = 10;

/// Time between two parts of the present problems.
const REPEAT: Duration = Duration::from_secs(60);

/// Problems of one part: as many as are reported in that time.
const PART: usize = 60;

/// The problems of policies that are known.
#[derive(Debug, Default)]
pub struct PolicyProblems {
    /// Each of them.
    found: BTreeSet<policy::Finding>,
    /// Those with one object and one reason together.
    sent: BTreeSet<Finding>,
    /// Something changed since they were collected.
    changed: bool,
    collected_at: Option<Instant>,
    repeated_at: Option<Instant>,
    /// The last one that was sent again.
    repeated: Option<Finding>,
}

impl PolicyProblems {
    /// Records that policies or what they depend on changed.
    pub fn set_changed(&mut self) {
        self.changed = true;
    }

    /// The next part of the present problems.
    fn next_part(&mut self) -> Vec<Finding> {
        let is_later =
            |finding: &&Finding| self.repeated.as_ref().is_none_or(|last| *finding > last);
        let later = self.sent.iter().filter(is_later);
        let earlier = self.sent.iter().filter(|finding| !is_later(finding));
        let part: Vec<Finding> = later.chain(earlier).take(PART).cloned().collect();
        self.repeated = part.last().cloned();
        part
    }
}

impl State {
    /// Problems of policies that concern this node.
    pub fn policy_findings(&self) -> &BTreeSet<policy::Finding> {
        &self.policy.problems.found
    }

    /// The mistakes in policies in one line; empty without any.
    pub fn policy_mistakes(&self) -> String {
        lines(&self.policy.problems.found, |finding| !finding.reason.is_of_node())
    }

    /// Sets the condition to the present problems, and sends the new ones, if something changed and they were
    /// not collected a moment ago. Sends former ones again.
    pub(super) fn report_policy_findings(&mut self) {
        let now = self.now;
        let problems = &mut self.policy.problems;
        if problems.changed && problems.collected_at.is_none_or(|at| now >= at + COLLECT) {
            problems.changed = false;
            problems.collected_at = Some(now);
            self.collect_policy_findings();
        }
        let problems = &mut self.policy.problems;
        if now >= *problems.repeated_at.get_or_insert(now) + REPEAT {
            problems.repeated_at = Some(now);
            for finding in problems.next_part() {
                self.report(finding);
            }
        }
    }

    fn collect_policy_findings(&mut self) {
        let known = self.known_pods();
        let found: BTreeSet<policy::Finding> =
            self.policy.compiler.findings(&self.index, known).into_iter().collect();
        let message = lines(&found, |finding| finding.reason.is_of_node());
        if message.is_empty() {
            self.conditions.clear(Concern::PolicyFindings);
        } else {
            self.conditions.set(Concern::PolicyFindings, Status::Degraded, message, self.now);
        }
        let sent = together(&self.index, &found);
        self.policy.problems.found = found;
        let former = mem::replace(&mut self.policy.problems.sent, sent);
        let new: Vec<Finding> = self.policy.problems.sent.difference(&former).cloned().collect();
        for finding in new {
            self.report(finding);
        }
    }
}

/// Some problems in one line.
fn lines(found: &BTreeSet<policy::Finding>, is_meant: impl Fn(&policy::Finding) -> bool) -> String {
    let meant = || found.iter().filter(|finding| is_meant(finding));
    let texts = meant().map(|f| format!("{:?} {}: {}", f.kind, f.object, f.text));
    bounded(texts, meant().count(), NAMED, "; ")
}

/// Problems with one object and one reason as one finding.
fn together(index: &Index, found: &BTreeSet<policy::Finding>) -> BTreeSet<Finding> {
    let mut texts: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for finding in found {
        let key = (finding.kind, finding.object.clone(), finding.reason);
        texts.entry(key).or_default().push(finding.text.clone());
    }
    let finding = |((kind, object, reason), texts): ((Kind, ObjectName, _), Vec<String>)| {
        let count = texts.len();
        let message = bounded(texts.into_iter(), count, NAMED, "; ");
        let uid = uid(index, kind, &object);
        Finding { kind, object, uid, reason: Reason::Policy(reason), message }
    };
    texts.into_iter().map(finding).collect()
}

fn uid(index: &Index, kind: Kind, object: &ObjectName) -> Option<Uid> {
    match kind {
        Kind::NetworkPolicy => index.network_policy(object)?.uid,
        Kind::ClusterNetworkPolicy => index.cluster_network_policy(object)?.uid,
        Kind::Pod => index.pod(object)?.uid,
        _ => None,
    }
}
