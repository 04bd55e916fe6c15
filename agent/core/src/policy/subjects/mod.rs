//! Pods of this node as subjects: the policies that select them, and their rule tables.

mod rules_of;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use self::rules_of::table;
use super::pods::same_pod;
use super::rules::{CompiledPolicy, Rules};
use super::tables::Tables;
use super::term::Terms;
use super::{LocalPod, may_select};
use crate::index::{Index, PolicyDirty};
use crate::model::{ContainerPort, Labels, ObjectName, Pod};

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
    /// Numbers of the policies that select it, in the order of the numbers.
    selected: Arc<[u32]>,
    standing: Standing,
    /// Labels and container ports that its tables were computed from. Pods of a namespace with equal ones get
    /// the same tables.
    judged_as: Option<ReplicaKey>,
}

/// Labels and container ports of a pod.
type ReplicaKey = (Labels, Arc<[ContainerPort]>);

/// The policies, and the pods of this node.
#[derive(Clone, Debug, Default)]
pub struct Subjects {
    numbers: BTreeMap<ObjectName, u32>,
    policies: Vec<Option<CompiledPolicy>>,
    free: Vec<u32>,
    /// Numbers of policies that are gone. Tables may refer to them until the end of the update.
    gone: Vec<u32>,
    subjects: BTreeMap<u16, Subject>,
    by_name: HashMap<ObjectName, BTreeSet<u16>>,
    by_namespace: HashMap<Arc<str>, BTreeSet<u16>>,
}

/// What an update of subjects results in.
#[derive(Debug, Default)]
pub struct Decisions {
    /// The new standing of pods, by index; one reference to each table.
    pub standings: BTreeMap<u16, Standing>,
    /// Tables that are not live yet.
    pub new_tables: Vec<u32>,
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

/// Policies that select a pod, and its ports if they matter.
type Decided = HashMap<(Arc<[u32]>, Option<Arc<[ContainerPort]>>), Ends>;

impl Subjects {
    /// Names of all policies.
    pub fn policy_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.numbers.keys()
    }

    /// Lease and standing of each pod.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalPod, Standing)> {
        self.subjects.values().map(|subject| (&subject.lease, subject.standing))
    }

    /// Sets the standing of a pod; returns whether it had another one.
    pub fn set(&mut self, index: u16, standing: Standing) -> bool {
        let subject = self.subjects.get_mut(&index);
        subject.is_some_and(|s| std::mem::replace(&mut s.standing, standing) != standing)
    }

    /// Lease and standing of a pod.
    pub fn get(&self, index: u16) -> Option<(&LocalPod, Standing)> {
        self.subjects.get(&index).map(|subject| (&subject.lease, subject.standing))
    }

    /// Decides again for the pods that changes of objects and leases affect.
    pub fn update(
        &mut self,
        index: &Index,
        dirty: &PolicyDirty,
        local: &[LocalPod],
        mut stores: Stores<'_>,
    ) -> Decisions {
        let mut decisions = Decisions::default();
        let mut touched = BTreeSet::new();
        self.free.append(&mut self.gone);
        for name in &dirty.policies {
            self.policy(index, name, &mut touched, &mut decisions, &mut stores);
        }
        let mut new: BTreeSet<u16> = self.leases(local, &mut decisions);
        new.extend(dirty.pods.iter().filter_map(|name| self.by_name.get(name)).flatten());
        if index.cluster_network_policies().next().is_some() {
            let namespaces = dirty.namespaces.iter();
            new.extend(namespaces.filter_map(|name| self.by_namespace.get(name)).flatten());
        }
        // A replica of a judged pod (same namespace, labels and container ports) gets the same tables. In a
        // namespace with 10,000 policies this avoids evaluating 10,000 selectors for each replica.
        let policies_unchanged = dirty.policies.is_empty() && dirty.namespaces.is_empty();
        let replicas = new.iter().filter(|_| policies_unchanged);
        let replicas = replicas.filter_map(|at| Some((*at, self.replica(index, *at)?)));
        // All of them before any subject changes.
        let replicas: BTreeMap<u16, (Arc<[u32]>, Ends)> = replicas.collect();
        for at in &new {
            let Some((selected, _)) = replicas.get(at) else {
                self.select(index, *at);
                continue;
            };
            let selected = Arc::clone(selected);
            self.subjects.entry(*at).and_modify(|subject| subject.selected = selected);
        }
        touched.extend(new);
        let mut decided = Decided::new();
        for at in touched {
            let Some(subject) = self.subjects.get(&at) else { continue };
            let standing = match replicas.get(&at) {
                Some((_, ends)) => Standing::Judged(*ends),
                None => self.decide(index, subject, &mut decided, &mut decisions, &mut stores),
            };
            standing.tables().for_each(|table| stores.tables.registry.retain(table));
            decisions.former.extend(subject.standing.tables());
            decisions.standings.insert(at, standing);
            let judged = pod_of(index, &subject.lease).filter(|_| standing.ends().is_some());
            let judged_as = judged.map(|pod| (pod.labels.clone(), Arc::clone(&pod.ports)));
            self.subjects.entry(at).and_modify(|subject| subject.judged_as = judged_as);
        }
        // The references of the searches above.
        decisions.former.extend(decided.into_values().flatten().flatten());
        decisions
    }

    /// Compiles a policy again; adds the pods that it selected or selects.
    fn policy(
        &mut self,
        index: &Index,
        name: &ObjectName,
        touched: &mut BTreeSet<u16>,
        decisions: &mut Decisions,
        stores: &mut Stores<'_>,
    ) {
        let own = index.network_policy(name);
        let own = own.map(|policy| stores.rules.compile(policy, stores.terms));
        let cluster = || {
            let policy = index.cluster_network_policy(name)?;
            Some(stores.rules.compile_cluster(policy, stores.terms))
        };
        let compiled = own.or_else(cluster);
        let known = self.numbers.get(name).copied();
        let number = match (known, &compiled) {
            (Some(number), _) => number,
            (None, None) => return,
            (None, Some(_)) => {
                let number = self.free.pop().unwrap_or(self.policies.len() as u32);
                if number as usize == self.policies.len() {
                    self.policies.push(None);
                }
                self.numbers.insert(name.clone(), number);
                number
            }
        };
        let candidates: Vec<u16> = match name.namespace.is_empty() {
            true => self.subjects.keys().copied().collect(),
            false => {
                self.by_namespace.get(&name.namespace).into_iter().flatten().copied().collect()
            }
        };
        for at in &candidates {
            let Some(subject) = self.subjects.get_mut(at) else { continue };
            let Some(pod) = pod_of(index, &subject.lease) else {
                touched.insert(*at);
                continue;
            };
            let is_unknown = index.namespace(&pod.name.namespace).is_none();
            if is_unknown || subject.standing == Standing::Pending {
                touched.insert(*at);
            }
            let selects = compiled.as_ref().is_some_and(|policy| policy.selects(index, pod));
            let place = subject.selected.binary_search(&number);
            if selects || place.is_ok() {
                touched.insert(*at);
            }
            match place {
                Ok(place) if !selects => {
                    let mut selected = subject.selected.to_vec();
                    selected.remove(place);
                    subject.selected = selected.into();
                }
                Err(place) if selects => {
                    let mut selected = subject.selected.to_vec();
                    selected.insert(place, number);
                    subject.selected = selected.into();
                }
                _ => {}
            }
        }
        if compiled.is_none() {
            self.numbers.remove(name);
            self.gone.push(number);
        }
        if let Some(slot) = self.policies.get_mut(number as usize) {
            decisions.forgotten.extend(std::mem::replace(slot, compiled));
        }
    }

    /// Takes over the leases; returns the indices of those that are new.
    fn leases(&mut self, local: &[LocalPod], decisions: &mut Decisions) -> BTreeSet<u16> {
        let current: BTreeMap<u16, &LocalPod> = local.iter().map(|pod| (pod.index, pod)).collect();
        let stale = |subject: &&Subject| current.get(&subject.lease.index) != Some(&&subject.lease);
        let stale: Vec<LocalPod> =
            self.subjects.values().filter(stale).map(|subject| subject.lease.clone()).collect();
        for lease in stale {
            if let Some(subject) = self.subjects.remove(&lease.index) {
                decisions.former.extend(subject.standing.tables());
            }
            if let Some(name) = &lease.name {
                remove(&mut self.by_name, name, lease.index);
                remove(&mut self.by_namespace, &name.namespace, lease.index);
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
            let selected = [].into();
            let (lease, standing) = (lease.clone(), Standing::Pending);
            self.subjects.insert(at, Subject { lease, selected, standing, judged_as: None });
            new.insert(at);
        }
        new
    }

    /// The policies and tables of a pod with the same labels and container ports in the same namespace.
    fn replica(&self, index: &Index, at: u16) -> Option<(Arc<[u32]>, Ends)> {
        let pod = pod_of(index, &self.subjects.get(&at)?.lease)?;
        let key = (pod.labels.clone(), Arc::clone(&pod.ports));
        let others = self.by_namespace.get(&pod.name.namespace)?.iter();
        let alike = |subject: &&Subject| subject.judged_as.as_ref() == Some(&key);
        others.filter_map(|at| self.subjects.get(at)).filter(alike).find_map(
            |subject| match subject.standing {
                Standing::Judged(ends) => Some((Arc::clone(&subject.selected), ends)),
                _ => None,
            },
        )
    }

    /// Finds the policies that select a pod.
    fn select(&mut self, index: &Index, at: u16) {
        let Some(subject) = self.subjects.get_mut(&at) else { return };
        let mut selected = Vec::new();
        if let Some(pod) = pod_of(index, &subject.lease) {
            for namespace in [&Arc::default(), &pod.name.namespace] {
                let first = ObjectName::new(Arc::clone(namespace), "");
                let policies = self.numbers.range(first..);
                for (_, number) in policies.take_while(|(name, _)| name.namespace == *namespace) {
                    let policy = self.policies.get(*number as usize).and_then(Option::as_ref);
                    if policy.is_some_and(|policy| policy.selects(index, pod)) {
                        selected.push(*number);
                    }
                }
            }
        }
        selected.sort_unstable();
        subject.selected = selected.into();
    }

    fn decide(
        &self,
        index: &Index,
        subject: &Subject,
        decided: &mut Decided,
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
        let policy = |number: &u32| Some((*number, self.policies.get(*number as usize)?.as_ref()?));
        let mut policies: Vec<(u32, &CompiledPolicy)> =
            subject.selected.iter().filter_map(policy).collect();
        policies.sort_by_key(|(_, policy)| &policy.order);
        let by_ports = policies.iter().any(|(_, policy)| policy.has_names());
        let ports = by_ports.then(|| Arc::clone(&pod.ports));
        let key = (Arc::clone(&subject.selected), ports);
        let ends = *decided.entry(key).or_insert_with(|| {
            PolicyDirection::ALL.map(|direction| {
                let of_policy = |(_, policy): &(u32, &CompiledPolicy)| {
                    policy.ends[direction as usize].is_some()
                };
                let policies: Vec<_> = policies.iter().copied().filter(of_policy).collect();
                if policies.is_empty() {
                    return None;
                }
                let (table, new) = table(&policies, direction, &pod.ports, stores);
                if new {
                    decisions.new_tables.push(table);
                }
                Some(table)
            })
        });
        Standing::Judged(ends)
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

fn remove<K: std::hash::Hash + Eq>(sets: &mut HashMap<K, BTreeSet<u16>>, key: &K, member: u16) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
