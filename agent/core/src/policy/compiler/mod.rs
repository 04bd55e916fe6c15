//! The incremental compiler.
//!
//! ```text
//! Pods, Namespaces, leases --> pods::Pods ----> addresses --+
//! Nodes, blocks -------------> networks::Networks -> ranges +--> classes --+
//!                                                                          +--> rows of POLICY_PEERS
//! policies, leases ----------> subjects::Subjects ------------> tables ----+
//! ```
//! A change is carried out in steps; most have one or two.
//! 1. Pods of this node are closed that change over to new tables while their present ones judge a peer
//!    otherwise than before: they would apply former rules to present peers. Also those whose tables do
//!    not fit any more.
//! 2. Terms of new tables become active, and pods that changed move to other classes. No table uses the
//!    new terms: for each table, the old and the new class of an address that did not change are equal.
//! 3. to 5. Pods of this node change over to new tables, and tables are rewritten ([`change_over`]).
//! 6. Terms that no table uses any more become inactive.

mod capacity;
mod change_over;
mod classify;
mod pairs;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::{Addr, NetworkKey, PodPolicy, pod_policy_flags};

pub(super) use self::capacity::Limits;
use self::capacity::Wanted;
use super::classes::Classes;
use super::findings::Kept;
use super::namespaces::Namespaces;
use super::networks::Networks;
use super::pods::Pods;
use super::rules::Rules;
use super::subjects::{Standing, Stores, Subjects};
use super::tables::{CLOSED_END, Tables};
use super::term::Terms;
use super::tracked::Tracked;
use super::{LocalPod, PolicyRows, Step};
use crate::index::{Index, PolicyDirty};
use crate::model::{ClusterNetworkPolicy, ObjectName};

/// The rows of the policies, brought up to date by the changes of objects.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    pub(super) limits: Limits,
    /// After the last update.
    wanted: Wanted,
    /// Most at a time in the last update.
    most_wanted: Wanted,
    pub(super) terms: Terms,
    pub(super) rules: Rules,
    pub(super) classes: Classes,
    pub(super) tables: Tables,
    pub(super) subjects: Subjects,
    pub(super) networks: Networks,
    pub(super) pods: Pods,
    /// Class of each address of a pod.
    addresses: BTreeMap<Addr, u32>,
    /// Addresses whose class does not fit into the map.
    pub(super) unclassed: BTreeSet<Addr>,
    /// Class of each prefix.
    prefixes: BTreeMap<IpNet, Option<u32>>,
    pod_rows: Tracked<u32, PodPolicy>,
    class_rows: Tracked<Addr, u64>,
    network_rows: Tracked<NetworkKey, u64>,
    namespaces: Namespaces,
    pub(super) kept: Kept,
    /// The leases of the last update.
    local: Vec<LocalPod>,
}

/// Rows of `POD_POLICY` by index; `None`: without a row.
type WantedRows = BTreeMap<u32, Option<PodPolicy>>;

/// What changed during a step besides rows.
#[derive(Debug, Default)]
struct Changed {
    /// Identities of tables that answer differently for an address: the pod with it, if all are of one pod.
    tables: BTreeMap<u32, Option<ObjectName>>,
    /// Classes of ranges changed for other reasons than terms.
    ranges: bool,
    /// Pods of this node that changed over to other tables, or to other rules of the same ones.
    pods: BTreeSet<u16>,
}

impl Policies {
    /// Brings the rows up to date. Returns the steps in the order in which they are carried out; none
    /// if no row changes.
    ///
    /// `local` are all pods of this node. Requires that NetworkPolicies, Namespaces, Pods and Nodes
    /// have been listed; before that, only [`super::open_namespaces`] may be written.
    pub fn update(&mut self, index: &Index, dirty: &PolicyDirty, local: &[LocalPod]) -> Vec<Step> {
        // A cluster without policies keeps no Pods: no rule refers to a peer. They are removed last, when
        // no table has rules for them any more.
        let needed = index.network_policies().next().is_some()
            || index.cluster_network_policies().next().is_some();
        self.most_wanted = Wanted::default();
        let everything;
        let is_all = needed && self.pods.set_needed(true) || dirty.all;
        let dirty = if is_all {
            everything = self.everything(index);
            &everything
        } else {
            dirty
        };
        let mut changed = Changed::default();
        let leases = (self.local != local).then_some(local);
        let leased = leases.map(|local| self.pods.set_leases(local)).unwrap_or_default();
        for namespace in &dirty.namespaces {
            self.pods.namespace(index, namespace, &self.terms);
        }
        for name in dirty.pods.union(&leased) {
            self.pods.pod(index, name, &self.terms);
        }
        if dirty.nodes {
            changed.ranges = self.networks.set_ranges(index.pod_ranges());
            changed.ranges |= self.nodes_changed(index);
        }
        let stores =
            Stores { terms: &mut self.terms, rules: &mut self.rules, tables: &mut self.tables };
        let decisions = self.subjects.update(index, dirty, leases, stores);
        self.activate(index, &decisions);
        self.classify(index, &mut changed);
        self.fit();
        let plan = self.plan(&decisions, |pod, identity| {
            // What a pod sends to itself does not count.
            let peer = changed.tables.get(&identity);
            let is_own = peer.is_some_and(|peer| peer.is_some() && *peer == pod.name);
            changed.ranges || peer.is_some() && !is_own
        });
        let wanted = self.wanted_rows(&changed);
        let mut zeroth = self.closing_step(&wanted.0);
        let first = self.pods_step(wanted);
        let (changeover, dead) = self.change_over(index, decisions, plan);
        let mut last = Step::default();
        let forgotten = !needed && self.pods.set_needed(false);
        if forgotten || !dead.is_empty() {
            let mut changed = Changed::default();
            for uses in dead {
                self.deactivate(index, uses);
            }
            changed.ranges |= self.fit_blocks(index);
            if forgotten {
                for name in self.pods.names().collect::<Vec<_>>() {
                    self.pods.pod(index, &name, &self.terms);
                }
            }
            last = self.step(index, changed);
        }

        self.update_namespaces(index, dirty, &leased);
        let changed = self.pods.take_changed();
        self.kept.changed(index, (dirty, is_all), &self.subjects, &self.pods, &changed);
        let open = self.namespaces.take();
        zeroth.open_namespaces.deletes = open.deletes;
        last.open_namespaces.puts = open.puts;
        if leases.is_some() {
            self.local = local.to_vec();
        }
        let [leaving, rewriting, joining] = changeover;
        let mut steps = vec![zeroth, first, leaving, rewriting, joining, last];
        self.close_pairs(local, &mut steps);
        steps.into_iter().filter(|step| !step.is_empty()).collect()
    }

    fn update_namespaces(
        &mut self,
        index: &Index,
        dirty: &PolicyDirty,
        leased: &BTreeSet<ObjectName>,
    ) {
        let of_policies: BTreeSet<&Arc<str>> =
            dirty.policies.iter().map(|policy| &policy.namespace).collect();
        let mut changed: BTreeSet<Arc<str>> = dirty.namespaces.clone();
        changed.extend(leased.iter().map(|pod| Arc::clone(&pod.namespace)));
        if of_policies.iter().any(|namespace| namespace.is_empty()) {
            changed.extend(self.namespaces.names().cloned());
        }
        for name in &changed {
            self.namespaces.namespace(index, name, self.subjects.has_namespace(name));
        }
        for name in of_policies.into_iter().filter(|name| !name.is_empty()) {
            self.namespaces.policies(index, name, self.subjects.has_namespace(name));
        }
    }

    /// All rows: for the comparison with the maps at the start, after a write that failed, and from time
    /// to time. Rows of pods have the revision 0.
    pub fn rows(&self) -> PolicyRows {
        PolicyRows {
            pods: self.pod_rows.rows().clone(),
            classes: self.class_rows.rows().clone(),
            networks: self.network_rows.rows().clone(),
            peers: self.tables.maps.peers.rows().clone(),
            ports: self.tables.maps.ports.rows().clone(),
            open_namespaces: self.namespaces.rows().clone(),
        }
    }

    /// The rows of `OPEN_NAMESPACES`.
    pub fn open_namespaces(&self) -> &BTreeMap<u64, u32> {
        self.namespaces.rows()
    }

    /// Number of rows by table.
    pub fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("policy_pods", self.pod_rows.rows().len()),
            ("policy_classes", self.class_rows.rows().len()),
            ("policy_networks", self.network_rows.rows().len()),
            ("policy_peers", self.tables.maps.peers.rows().len()),
            ("policy_ports", self.tables.maps.ports.rows().len()),
            ("open_namespaces", self.namespaces.rows().len()),
        ]
    }

    /// All objects, known or new.
    fn everything(&self, index: &Index) -> PolicyDirty {
        let new = index.namespaces().map(|namespace| namespace.name.as_str().into());
        let policies = index.network_policies().map(|policy| policy.name.clone());
        let cluster = index.cluster_network_policies().map(ClusterNetworkPolicy::object_name);
        let pods = index.pods().filter(|_| self.pods.is_needed()).map(|pod| &pod.name);
        let subjects = self.subjects.iter().filter_map(|(lease, _)| lease.name.as_ref());
        PolicyDirty {
            all: false,
            pods: pods.chain(subjects).cloned().chain(self.pods.names()).collect(),
            namespaces: self
                .pods
                .namespaces()
                .into_iter()
                .chain(self.namespaces.names().cloned())
                .chain(new)
                .collect(),
            policies: self
                .subjects
                .policy_names()
                .cloned()
                .chain(policies)
                .chain(cluster)
                .collect(),
            nodes: true,
        }
    }

    /// Brings classes, capacities and rows of pods up to date; returns the changed rows.
    fn step(&mut self, index: &Index, mut changed: Changed) -> Step {
        self.classify(index, &mut changed);
        self.fit();
        let wanted = self.wanted_rows(&changed);
        self.pods_step(wanted)
    }

    /// The step that closes pods, before anything that makes it necessary.
    fn closing_step(&mut self, wanted: &WantedRows) -> Step {
        for (index, wanted) in wanted.iter().filter_map(|(index, row)| Some((index, row.as_ref()?)))
        {
            let closed = self.pod_rows.rows().get(index).and_then(|row| closed_as(row, wanted));
            if closed.is_some() {
                self.pod_rows.set(*index, closed);
            }
        }
        Step { pods: self.pod_rows.take().puts, ..Step::default() }
    }

    /// Rows of the pods that may have others than before, `None` for an index without a row, and the pods whose
    /// flows must be judged again although their rows may stay.
    fn wanted_rows(&mut self, changed: &Changed) -> (WantedRows, BTreeSet<u16>) {
        let mut affected = self.subjects.take_moved();
        for table in self.tables.take_changed() {
            affected.extend(self.subjects.of_table(table));
        }
        let mut rejudge = changed.pods.clone();
        if changed.ranges {
            let has_table = |(_, standing): &(_, Standing)| standing.tables().next().is_some();
            let isolated = self.subjects.iter().filter(has_table);
            rejudge.extend(isolated.map(|(lease, _)| lease.index));
        }
        rejudge.extend(changed.tables.keys().flat_map(|table| self.subjects.of_table(*table)));
        affected.extend(&rejudge);
        let rows = affected.into_iter().map(|at| (at.into(), self.row_of(at))).collect();
        (rows, rejudge)
    }

    /// What `POD_POLICY` has for a pod.
    fn row_of(&self, index: u16) -> Option<PodPolicy> {
        let (lease, standing) = self.subjects.get(index)?;
        let ends = match standing {
            Standing::Pending => return None,
            Standing::Free => Default::default(),
            Standing::Moving => [CLOSED_END; 2],
            Standing::Judged(ends) => {
                ends.map(|end| end.map(|table| self.tables.end(table)).unwrap_or_default())
            }
        };
        let has_tiers = standing == Standing::Moving
            || standing.tables().any(|table| self.tables.has_tiers(table));
        let flags = if has_tiers { pod_policy_flags::JUDGES_HAIRPIN } else { 0 };
        Some(PodPolicy { generation: lease.generation, flags, revision: 0, ends })
    }

    /// The rows that changed, given those of [`Policies::wanted_rows`].
    fn pods_step(&mut self, (rows, rejudge): (WantedRows, BTreeSet<u16>)) -> Step {
        for (index, row) in &rows {
            self.pod_rows.set(*index, *row);
        }
        let mut pods: BTreeMap<u32, PodPolicy> = self.pod_rows.take().with_zeros().collect();
        for index in rejudge.into_iter().map(u32::from) {
            if let Some(Some(row)) = rows.get(&index) {
                pods.entry(index).or_insert(*row);
            }
        }
        let mut networks = self.network_rows.take();
        networks.puts.reverse();
        Step {
            ports: self.tables.maps.ports.take(),
            peers: self.tables.maps.peers.take(),
            networks,
            classes: self.class_rows.take(),
            pods: pods.into_iter().collect(),
            open_namespaces: Default::default(),
        }
    }
}

/// A row with those directions closed that another row closes; `None` if it closes none.
fn closed_as(row: &PodPolicy, other: &PodPolicy) -> Option<PodPolicy> {
    let mut closed = *row;
    for (end, other) in closed.ends.iter_mut().zip(&other.ends) {
        if *other == CLOSED_END {
            *end = CLOSED_END;
        }
    }
    (closed != *row && row.generation == other.generation).then_some(closed)
}
