//! NetworkPolicies and ClusterNetworkPolicies: what changed, the compiler of their rows, and what is known about the maps.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use sluice_core::model::Kind;
use sluice_core::policy::{self, KnownPods, LocalPod, Policies, Step};
use sluice_core::{Index, PolicyDirty};

use super::State;
use super::policy_problems::PolicyProblems;
use crate::conditions::Concern;
use crate::config::{Source, WatchedPods};

/// What the rows depend on.
const KINDS: [Kind; 5] =
    [Kind::Node, Kind::Pod, Kind::Namespace, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];

/// Which namespaces have no policy depends on these.
const KINDS_OF_NAMESPACES: [Kind; 3] =
    [Kind::Namespace, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];

/// Which rows have to be compared with the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyCheck {
    /// Those of the pods of this node and of the namespaces.
    pub pods: bool,
    /// All, in parts.
    pub all: bool,
}

/// Everything about policies.
#[derive(Debug, Default)]
pub struct PolicyState {
    pub(super) compiler: Policies,
    dirty: PolicyDirty,
    local: Vec<LocalPod>,
    pub(super) problems: PolicyProblems,
    check: PolicyCheck,
    /// Whether the rows are compared at each poll.
    poll: bool,
    written: bool,
    /// Number of changes that were programmed, and the duration of the last one.
    programmed: (u64, Option<Duration>),
}

impl PolicyState {
    /// Number of desired rows by table.
    pub fn row_counts(&self) -> [(&'static str, usize); 6] {
        self.compiler.counts()
    }
}

impl State {
    /// Takes the changes of objects that policies depend on out of the index.
    pub(super) fn note_policy_changes(&mut self) {
        let changed = self.index.take_policy_dirty();
        if changed.all || !changed.policies.is_empty() {
            self.forget_deleted_policies();
        }
        if !changed.is_empty() {
            merge(&mut self.policy.dirty, changed);
            self.forget_reasons();
            self.mark([Concern::Policy]);
        }
    }

    /// Asks for comparisons: of the rows of pods at each resync, of `all` rows less frequently.
    pub(super) fn check_policies(&mut self, all: bool) {
        self.policy.check.pods = true;
        self.policy.check.all |= all;
    }

    /// The comparisons that were asked for since the last call.
    pub fn take_policy_check(&mut self) -> PolicyCheck {
        mem::take(&mut self.policy.check)
    }

    /// Whether the reconciler runs at each poll, because a comparison is under way.
    pub fn poll_policies(&mut self, poll: bool) {
        self.policy.poll = poll;
    }

    pub(super) fn polls_policies(&self) -> bool {
        self.policy.poll
    }

    /// Whether everything has been listed that the rows depend on.
    pub fn policies_listed(&self) -> bool {
        KINDS.iter().all(|kind| self.listed(*kind))
    }

    /// Whether it is known what the rows depend on: without policies, only that there are none.
    pub fn policies_known(&self) -> bool {
        self.policies_listed() || self.has_policy_lists() && self.policy_counts() == [0, 0]
    }

    /// Whether there are policies, and it is not known yet what their rows depend on.
    pub fn lists_of_policies_are_missing(&self) -> bool {
        !self.policies_listed() && self.policy_counts() != [0, 0]
    }

    fn has_policy_lists(&self) -> bool {
        [Kind::NetworkPolicy, Kind::ClusterNetworkPolicy].iter().all(|kind| self.listed(*kind))
    }

    /// The namespaces without policies, once policies and Namespaces have been listed.
    pub fn open_namespaces(&self, local: &[LocalPod]) -> Option<BTreeMap<u64, u32>> {
        let listed = KINDS_OF_NAMESPACES.iter().all(|kind| self.listed(*kind));
        listed.then(|| policy::open_namespaces(&self.index, local))
    }

    /// Compiles what changed. Returns the steps that lead from the former rows to the present ones.
    pub fn update_policies(&mut self, local: Vec<LocalPod>) -> Vec<Step> {
        let dirty = mem::take(&mut self.policy.dirty);
        let capacity = self.policy_capacity();
        let resized = self.policy.compiler.set_capacity(&capacity);
        if dirty.is_empty() && !resized && self.policy.local == local {
            return Vec::new();
        }
        let steps = self.policy.compiler.update(&self.index, &dirty, &local);
        self.policy.local = local;
        self.forget_reasons();
        self.policy.problems.set_changed();
        steps
    }

    /// The compiled policies.
    pub fn policies(&self) -> &Policies {
        &self.policy.compiler
    }

    /// The pods of this node for which the policies were compiled.
    pub fn policy_pods(&self) -> &[LocalPod] {
        &self.policy.local
    }

    /// All objects.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Numbers of NetworkPolicies and of ClusterNetworkPolicies.
    pub fn policy_counts(&self) -> [usize; 2] {
        self.index.policy_counts()
    }

    /// Records that the rows of all policies are in the maps, for the first time or again.
    pub fn set_policies_written(&mut self) {
        if !mem::replace(&mut self.policy.written, true) {
            self.mark([Concern::NodeConfig, Concern::Migration, Concern::CniFiles]);
        }
    }

    /// Records that larger maps have replaced those in which the rows were.
    pub(super) fn set_policies_unwritten(&mut self) {
        self.policy.written = false;
    }

    /// Whether the rows of policies were written into the present maps since the agent started. Before that,
    /// no program that uses them may take over, and no pod be connected: it would be closed.
    pub fn policies_written(&self) -> bool {
        self.policy.written
    }

    /// Records how long the last change took from its compilation to the last row.
    pub fn set_policies_programmed(&mut self, duration: Duration) {
        let (count, _) = self.policy.programmed;
        self.policy.programmed = (count + 1, Some(duration));
    }

    /// Number of changes since the start, and the duration of the last one.
    pub fn policies_programmed(&self) -> (u64, Option<Duration>) {
        self.policy.programmed
    }

    /// Whether policies exist whose selectors may mean Pods that are not watched.
    pub fn lacks_pods_for_policies(&self) -> bool {
        self.known_pods() == KnownPods::OfNode && self.policy_counts() != [0, 0]
    }

    /// The Pods that are watched; a folder has all of them.
    pub(super) fn known_pods(&self) -> KnownPods {
        match (&self.config.source, self.config.watch_pods) {
            (Source::Api(_), WatchedPods::Node) => KnownPods::OfNode,
            _ => KnownPods::OfCluster,
        }
    }
}

fn merge(dirty: &mut PolicyDirty, other: PolicyDirty) {
    if dirty.all || other.all {
        *dirty = PolicyDirty::everything();
        return;
    }
    dirty.pods.extend(other.pods);
    dirty.namespaces.extend(other.namespaces);
    dirty.policies.extend(other.policies);
    dirty.nodes |= other.nodes;
}
