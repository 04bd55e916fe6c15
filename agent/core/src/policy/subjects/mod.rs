//! Pods of this node as subjects: the policies that select them, and their rule tables.

mod policies;
mod rules_of;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use self::policies::{BySelector, OfSelector};
use self::rules_of::ChangedPolicies;
use super::pods::same_pod;
use super::rules::{CompiledPolicy, Rules};
use super::tables::{TableChange, TableRules, Tables};
use super::term::{GroupKey, Terms};
use super::{LocalPod, may_select};
use crate::index::{Index, PolicyDirty};
use crate::model::{ObjectName, Pod};
use crate::visits::visit;

/// The table of each direction; `None`: not isolated.
pub type Ends = [Option<u32>; 2];

/// What is known of a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its Pod object, or its namespace if policies depend on it, is not known, and policies may select
    /// it: closed, without a row.
    Pending,
    /// Its tables change, and at the same time peers as its present tables see them: closed in between.
    Moving,
    /// No policy applies to it.
    Free,
    /// The policies that select it apply to it.
    Judged(Ends),
}

impl Standing {
    /// Its tables.
    pub fn tables(self) -> impl Iterator<Item = u32> {
        self.ends().into_iter().flatten().flatten()
    }

    /// The table of each direction; `None`: closed.
    pub fn ends(self) -> Option<Ends> {
        match self {
            Standing::Judged(ends) => Some(ends),
            Standing::Free => Some([None, None]),
            Standing::Pending | Standing::Moving => None,
        }
    }
}

/// A pod of this node.
#[derive(Clone, Debug)]
struct Subject {
    lease: LocalPod,
    /// Numbers of the selectors of policies that select it, sorted.
    selected: Vec<u32>,
    standing: Standing,
}

/// The policies, and the pods of this node.
#[derive(Clone, Debug, Default)]
pub struct Subjects {
    policies: BySelector,
    subjects: BTreeMap<u16, Subject>,
    by_name: HashMap<ObjectName, BTreeSet<u16>>,
    by_namespace: HashMap<Arc<str>, BTreeSet<u16>>,
    /// Pods by the identities of their tables.
    by_table: HashMap<u32, BTreeSet<u16>>,
    /// Pods whose Pod object or namespace is not known: every policy may concern them.
    unsettled: BTreeSet<u16>,
    /// Pods whose standing changed, and indices that have no pod any more.
    moved: BTreeSet<u16>,
}

/// What an update of subjects results in.
#[derive(Debug, Default)]
pub struct Decisions {
    /// The new standing of pods, by index; one reference to each table.
    pub standings: BTreeMap<u16, Standing>,
    /// Tables that are not live yet.
    pub new_tables: BTreeMap<u32, TableRules>,
    /// Tables that stay, and whose rules change.
    pub changes: BTreeMap<u32, TableChange>,
    /// Tables that pods do not use any more, with one reference for each use.
    pub former: Vec<u32>,
    /// Policies that were changed or deleted.
    pub forgotten: Vec<CompiledPolicy>,
}

/// The stores that a decision reads and adds to.
pub struct Stores<'a> {
    /// Terms.
    pub terms: &'a mut Terms,
    /// Rules.
    pub rules: &'a mut Rules,
    /// Tables.
    pub tables: &'a mut Tables,
}

impl Subjects {
    /// Names of all policies.
    pub fn policy_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.policies.names()
    }

    /// Lease and standing of each pod.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalPod, Standing)> {
        let subjects = self.subjects.values().inspect(|_| visit());
        subjects.map(|subject| (&subject.lease, subject.standing))
    }

    /// Lease and standing of a pod.
    pub fn get(&self, index: u16) -> Option<(&LocalPod, Standing)> {
        visit();
        self.subjects.get(&index).map(|subject| (&subject.lease, subject.standing))
    }

    /// Indices of the pods with a table.
    pub fn of_table(&self, table: u32) -> impl Iterator<Item = u16> {
        self.by_table.get(&table).into_iter().flatten().copied()
    }

    /// Whether a pod is in a namespace.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.by_namespace.contains_key(name)
    }

    /// The indices whose pods changed their standing, came or went since the last call.
    pub fn take_moved(&mut self) -> BTreeSet<u16> {
        std::mem::take(&mut self.moved)
    }

    /// Names of the policies with names of the ports of pods of a group.
    pub fn with_port_names(&self, index: &Index, group: &GroupKey) -> Vec<ObjectName> {
        if !self.policies.has_port_names() {
            return Vec::new();
        }
        let selectors = self.policies.selecting(index, &group.namespace, &group.labels);
        let of = selectors.into_iter().filter_map(|selector| self.policies.get(selector));
        of.flat_map(OfSelector::with_port_names).cloned().collect()
    }

    /// Sets the standing of a pod; returns whether it had another one.
    pub fn set(&mut self, index: u16, standing: Standing) -> bool {
        let Some(subject) = self.subjects.get_mut(&index) else { return false };
        let former = std::mem::replace(&mut subject.standing, standing);
        if former == standing {
            return false;
        }
        self.moved.insert(index);
        for table in former.tables() {
            remove(&mut self.by_table, &table, index);
        }
        for table in standing.tables() {
            self.by_table.entry(table).or_default().insert(index);
        }
        true
    }

    /// Decides again for the pods that changes of objects and leases affect. `local` are the leases, if
    /// they changed.
    pub fn update(
        &mut self,
        index: &Index,
        dirty: &PolicyDirty,
        local: Option<&[LocalPod]>,
        mut stores: Stores<'_>,
    ) -> Decisions {
        let mut decisions = Decisions::default();
        let (mut touched, mut changed) = (BTreeSet::new(), ChangedPolicies::default());
        for (selector, pods) in self.policies.release_gone() {
            for at in pods {
                let subject = self.subjects.entry(at);
                subject.and_modify(|subject| subject.selected.retain(|other| *other != selector));
            }
        }
        for name in &dirty.policies {
            self.policy(index, name, &mut touched, &mut changed, &mut stores);
        }
        let mut new: BTreeSet<u16> =
            local.map(|local| self.leases(local, &mut decisions)).unwrap_or_default();
        new.extend(dirty.pods.iter().filter_map(|name| self.by_name.get(name)).flatten());
        let namespaces = dirty.namespaces.iter();
        new.extend(namespaces.filter_map(|name| self.by_namespace.get(name)).flatten());
        new.iter().for_each(|at| self.select(index, *at));
        touched.extend(new);
        for at in touched {
            let Some(subject) = self.subjects.get(&at) else { continue };
            let standing = self.decide(index, subject, &mut decisions, &mut stores);
            decisions.former.extend(subject.standing.tables());
            decisions.standings.insert(at, standing);
        }
        self.changes(&changed, &mut decisions, &mut stores);
        decisions.forgotten = changed.into_former();
        decisions
    }

    /// The rules of new tables, and what changes in those of others.
    fn changes(
        &self,
        changed: &ChangedPolicies,
        decisions: &mut Decisions,
        stores: &mut Stores<'_>,
    ) {
        for (table, content) in &mut decisions.new_tables {
            let identity = Arc::clone(stores.tables.identities.get(*table));
            *content = rules_of::rules(&self.policies, &identity, stores);
        }
        if changed.is_empty() {
            return;
        }
        let kept = decisions.standings.values().copied().flat_map(Standing::tables);
        for table in kept.collect::<BTreeSet<u32>>() {
            if decisions.new_tables.contains_key(&table) {
                continue;
            }
            let identity = Arc::clone(stores.tables.identities.get(table));
            let change = rules_of::change(&self.policies, changed, &identity, stores);
            if let Some(change) =
                stores.tables.differing_change(table, change, stores.rules, stores.terms)
            {
                decisions.changes.insert(table, change);
            }
        }
    }

    /// Compiles a policy again; adds the pods that it selected or selects.
    fn policy(
        &mut self,
        index: &Index,
        name: &ObjectName,
        touched: &mut BTreeSet<u16>,
        changed: &mut ChangedPolicies,
        stores: &mut Stores<'_>,
    ) {
        let own = index.network_policy(name);
        let own = own.map(|policy| stores.rules.compile(policy, stores.terms));
        let cluster = || {
            let policy = index.cluster_network_policy(name)?;
            Some(stores.rules.compile_cluster(policy, stores.terms))
        };
        let compiled = own.or_else(cluster);
        if let Some((selector, former)) = self.policies.remove(name) {
            touched.extend(self.policies.get(selector).into_iter().flat_map(|of| &of.pods));
            changed.former(selector, former);
        } else if compiled.is_none() {
            return;
        }
        let of_namespace = self.by_namespace.get(&name.namespace);
        if let Some(compiled) = compiled {
            let (selector, new) = self.policies.insert(name, compiled);
            if new {
                let candidates: Vec<u16> = match name.namespace.is_empty() {
                    true => self.subjects.keys().copied().collect(),
                    false => of_namespace.into_iter().flatten().copied().collect(),
                };
                self.selector(index, selector, &candidates);
            }
            changed.present(selector, name);
            touched.extend(self.policies.get(selector).into_iter().flat_map(|of| &of.pods));
        }
        let of_namespace = self.by_namespace.get(&name.namespace);
        let concerns = |at: &&u16| {
            name.namespace.is_empty() || of_namespace.is_some_and(|of| of.contains(*at))
        };
        touched.extend(self.unsettled.iter().filter(concerns));
    }

    /// Finds the pods that a new selector selects.
    fn selector(&mut self, index: &Index, selector: u32, candidates: &[u16]) {
        for at in candidates {
            let Some(subject) = self.subjects.get_mut(at) else { continue };
            let Some(pod) = pod_of(index, &subject.lease) else { continue };
            if self.policies.selects(index, selector, pod)
                && let Err(place) = subject.selected.binary_search(&selector)
            {
                subject.selected.insert(place, selector);
                self.policies.set_pod(selector, *at, true);
            }
        }
    }

    /// Takes over the leases; returns the indices of those that are new.
    fn leases(&mut self, local: &[LocalPod], decisions: &mut Decisions) -> BTreeSet<u16> {
        let current: BTreeMap<u16, &LocalPod> = local.iter().map(|pod| (pod.index, pod)).collect();
        let stale = |subject: &&Subject| current.get(&subject.lease.index) != Some(&&subject.lease);
        let stale: Vec<u16> =
            self.subjects.values().filter(stale).map(|subject| subject.lease.index).collect();
        for at in stale {
            if let Some((_, standing)) = self.get(at) {
                decisions.former.extend(standing.tables());
            }
            self.set(at, Standing::Pending);
            self.moved.insert(at);
            self.unsettled.remove(&at);
            let Some(Subject { lease, selected, .. }) = self.subjects.remove(&at) else { continue };
            selected.iter().for_each(|selector| self.policies.set_pod(*selector, at, false));
            if let Some(name) = &lease.name {
                remove(&mut self.by_name, name, at);
                remove(&mut self.by_namespace, &name.namespace, at);
            }
        }
        let mut new = BTreeSet::new();
        for (at, lease) in current {
            if self.subjects.contains_key(&at) {
                continue;
            }
            if let Some(name) = &lease.name {
                self.by_name.entry(name.clone()).or_default().insert(at);
                self.by_namespace.entry(Arc::clone(&name.namespace)).or_default().insert(at);
            }
            let (lease, standing) = (lease.clone(), Standing::Pending);
            self.subjects.insert(at, Subject { lease, selected: Vec::new(), standing });
            self.moved.insert(at);
            new.insert(at);
        }
        new
    }

    /// Finds the selectors that select a pod.
    fn select(&mut self, index: &Index, at: u16) {
        let Some(subject) = self.subjects.get_mut(&at) else { return };
        let pod = pod_of(index, &subject.lease);
        let selected =
            pod.map(|pod| self.policies.selecting(index, &pod.name.namespace, &pod.labels));
        let selected = selected.unwrap_or_default();
        let former = std::mem::replace(&mut subject.selected, selected);
        former.iter().for_each(|selector| self.policies.set_pod(*selector, at, false));
        subject.selected.iter().for_each(|selector| self.policies.set_pod(*selector, at, true));
        let name = subject.lease.name.as_ref();
        let is_unsettled =
            name.is_some_and(|name| pod.is_none() || index.namespace(&name.namespace).is_none());
        if is_unsettled {
            self.unsettled.insert(at);
        } else {
            self.unsettled.remove(&at);
        }
    }

    fn decide(
        &self,
        index: &Index,
        subject: &Subject,
        decisions: &mut Decisions,
        stores: &mut Stores<'_>,
    ) -> Standing {
        let Some(name) = &subject.lease.name else { return Standing::Free };
        let Some(pod) = pod_of(index, &subject.lease) else {
            let pending = may_select(index, &name.namespace);
            return if pending { Standing::Pending } else { Standing::Free };
        };
        if depends_on_unknown_namespace(index, &name.namespace) {
            return Standing::Pending;
        }
        Standing::Judged(PolicyDirection::ALL.map(|direction| {
            let identity =
                rules_of::identity(&self.policies, subject, direction, &pod.ports, stores);
            let (table, new) = identity?;
            if new {
                decisions.new_tables.insert(table, TableRules::default());
            }
            Some(table)
        }))
    }
}

/// Whether ClusterNetworkPolicies may select pods of a namespace whose labels are not known.
pub fn depends_on_unknown_namespace(index: &Index, namespace: &str) -> bool {
    let mut policies = index.cluster_network_policies().filter(|policy| policy.has_rules());
    index.namespace(namespace).is_none()
        && policies.any(|policy| !policy.subject.namespaces.is_empty())
}

/// The Pod object of a lease.
pub fn pod_of<'a>(index: &'a Index, lease: &LocalPod) -> Option<&'a Pod> {
    index.pod(lease.name.as_ref()?).filter(|pod| same_pod(pod, lease.uid))
}

fn remove<K: Hash + Eq>(sets: &mut HashMap<K, BTreeSet<u16>>, key: &K, member: u16) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
