//! Policies: compiled rows agree with the oracle, changes with compiling afresh, and every step is atomic.

mod agreement;
mod coverage;
mod pairs;
mod recovery;
mod transitions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use sluice_abi::{PolicyDirection, map};

use super::cases;
use crate::generate::{self, THIS_NODE};
use crate::index::{Index, PolicyDirty};
use crate::model::{Change, Object, ObjectName};
use crate::policy::{
    CLOSED_END, Judgement, KnownPods, LocalPod, Policies, PolicyRows, Step, open_namespaces,
};
use crate::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyNetworks, PolicyPeers, PortSets, Rows, Table,
    Write,
};

fn index_of(objects: &[Object]) -> Index {
    let mut index = Index::new(THIS_NODE);
    objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
    index
}

fn afresh(index: &Index, local: &[LocalPod]) -> PolicyRows {
    let mut policies = Policies::default();
    policies.update(index, &PolicyDirty::everything(), local);
    policies.rows()
}

/// Addresses that Pod objects have at any time.
type Own = BTreeSet<(ObjectName, IpAddr)>;

fn own_addresses<'a>(objects: impl Iterator<Item = &'a Object>) -> Own {
    let mut own = Own::new();
    for object in objects {
        if let Object::Pod(pod) = object {
            own.extend(pod.ips.iter().map(|ip| (pod.name.clone(), ip)));
        }
    }
    own
}

/// Of each probe, whether one side of a flow passes.
type Judged = (LocalPod, PolicyDirection, IpAddr, Vec<bool>);

/// Whether one side of a flow passes, for all pods, directions, peers and probes. What a pod sends to
/// itself does not count.
fn judgements(rows: &PolicyRows, local: &[LocalPod], own: &Own) -> Vec<Judged> {
    let mut all = Vec::new();
    for pod in local {
        for direction in PolicyDirection::ALL {
            for peer in generate::policy_peers() {
                let same = |name: &ObjectName| own.contains(&(name.clone(), peer));
                if peer == pod.address || pod.name.as_ref().is_some_and(same) {
                    continue;
                }
                let probes = generate::policy_probes().into_iter().map(|(protocol, port)| {
                    rows.judge(pod, direction, peer, protocol, port) == Judgement::Pass
                });
                all.push((pod.clone(), direction, peer, probes.collect()));
            }
        }
    }
    all
}

/// The maps, to which writes are applied row by row.
#[derive(Clone, Default)]
struct Maps {
    rows: PolicyRows,
    epoch: u32,
    /// By index of the pod.
    revisions: BTreeMap<u32, u32>,
}

impl Maps {
    /// Applies one row of a write. Rows of pods keep no revision.
    fn apply(&mut self, write: &Write, at: usize) {
        fn set<T: Table>(
            rows: &mut std::collections::BTreeMap<T::Key, T::Value>,
            write: &Write,
            at: usize,
        ) -> bool
        where
            T::Value: zerocopy::FromZeros,
        {
            if write.table() != T::SPEC {
                return false;
            }
            let Some((key, value)) = write.rows().nth(at) else { return true };
            let rest = value.map_or_else(|| vec![0; T::SPEC.value_size], <[u8]>::to_vec);
            let row = Rows { table: T::SPEC, keys: key.to_vec(), values: rest };
            for (key, new) in row.typed::<T>() {
                if value.is_some() {
                    rows.insert(key, new);
                } else {
                    assert!(rows.remove(&key).is_some(), "{key:?} is deleted, but absent");
                }
            }
            true
        }
        let rows = &mut self.rows;
        let known = set::<PortSets>(&mut rows.ports, write, at)
            || set::<PolicyPeers>(&mut rows.peers, write, at)
            || set::<PolicyNetworks>(&mut rows.networks, write, at)
            || set::<PolicyClasses>(&mut rows.classes, write, at)
            || set::<OpenNamespaces>(&mut rows.open_namespaces, write, at)
            || set::<PodPolicies>(&mut rows.pods, write, at);
        if known {
            for (index, row) in &mut rows.pods {
                if row.revision != 0 {
                    self.revisions.insert(*index, row.revision);
                }
                assert!(row.revision <= self.epoch + 1);
            }
            rows.pods.values_mut().for_each(|row| row.revision = 0);
            rows.pods.retain(|_, row| row.generation != 0);
        } else {
            assert_eq!(write.table().name, map::POLICY_EPOCH);
            self.epoch += 1;
        }
    }
}

/// Whether several pods have one address.
fn share_addresses(index: &Index) -> bool {
    let mut seen = BTreeSet::new();
    let mut addresses = index.pods().flat_map(|pod| pod.ips.iter());
    !addresses.all(|address| seen.insert(address))
}

/// Whether a pod has a row; one of an earlier pod with its index does not count.
fn has_row(rows: &PolicyRows, pod: &LocalPod) -> bool {
    let row = rows.pods.get(&u32::from(pod.index));
    row.is_some_and(|row| row.generation == pod.generation)
}

/// A change that is carried out in steps.
#[derive(Clone, Copy)]
struct Transition<'a> {
    before: &'a PolicyRows,
    after: &'a PolicyRows,
    /// Of several objects: flows may be dropped.
    several: bool,
}

/// Carries a step out. Each side of a flow is judged as before or as after the change; without one, verdicts are
/// not checked between two writes. During a change of several objects, a flow may be dropped instead, and so may
/// those to a server that is closed because it [`pairs::is_exposed`]; what passes passes before or after. Returns
/// whether any of a pod with a row was dropped so.
fn carry_out(
    maps: &mut Maps,
    step: &Step,
    local: &[LocalPod],
    own: &Own,
    change: Option<Transition>,
) -> bool {
    let mut dropped = false;
    let was = change.map(|change| judgements(change.before, local, own));
    let old = judgements(&maps.rows, local, own);
    let new = judgements(change.map_or(&maps.rows, |change| change.after), local, own);
    let (begin, step_epoch) = (maps.rows.clone(), maps.epoch);
    // What programs that run between two writes record, with the epoch that they read.
    let mut recorded = vec![(maps.epoch, old.clone())];
    for write in step.writes(maps.epoch, &maps.rows.pods) {
        let referred = write.table() == PortSets::SPEC;
        for at in 0..write.len() {
            maps.apply(&write, at);
            if change.is_none() || referred && at + 1 < write.len() {
                // New contents, which nothing refers to yet, or old ones that nothing refers to.
                continue;
            }
            let judged = judgements(&maps.rows, local, own);
            // An agent that ends here leaves a mark. Pods without a row are judged by nothing that is recorded.
            let is_marked = maps.revisions.values().any(|revision| *revision > step_epoch);
            let rows = [&begin, &maps.rows];
            let differs = |(a, b): (&_, &Judged)| a != b && rows.iter().all(|r| has_row(r, &b.0));
            assert!(is_marked || !old.iter().zip(&judged).any(differs), "{write:?} left no mark");
            for (at, now) in judged.iter().enumerate() {
                if *now == old[at] || *now == new[at] {
                    continue;
                }
                let was = was.as_ref().map(|was| &was[at].3);
                let mut passes = now.3.iter().enumerate().filter(|(_, passes)| **passes);
                let may_drop = change.is_some_and(|change| {
                    let row = maps.rows.pods.get(&now.0.index.into());
                    let is_closed = now.1 == PolicyDirection::Ingress
                        && row.is_some_and(|row| row.ends[now.1 as usize] == CLOSED_END);
                    change.several || is_closed && pairs::is_exposed(&change, local, &now.0)
                });
                assert!(
                    may_drop
                        && was.is_some_and(|was| {
                            passes.all(|(probe, _)| was[probe] || new[at].3[probe])
                        }),
                    "{write:?}: {now:?}, before {:?}, after {:?}",
                    old[at],
                    new[at]
                );
                // Without a row, the pod waits for it.
                dropped |= has_row(&maps.rows, &now.0);
            }
            recorded.push((maps.epoch, judged));
        }
    }
    check_recorded(maps, &recorded, local, own);
    // Content never changes under an id.
    for (key, ports) in &maps.rows.ports {
        assert!(begin.ports.get(key).is_none_or(|before| before == ports));
    }
    // Flows of a pod that are judged otherwise now are judged again.
    let written = |pod: &LocalPod| step.pods.iter().any(|(at, _)| *at == u32::from(pod.index));
    for (old, now) in old.iter().zip(judgements(&maps.rows, local, own)) {
        let has_row = has_row(&maps.rows, &now.0);
        assert!(*old == now || written(&now.0) || !has_row, "{now:?} is not judged again");
    }
    dropped
}

/// A recorded verdict that is not repeated is the present one. Those on pods that are gone do not count.
fn check_recorded(maps: &Maps, recorded: &[(u32, Vec<Judged>)], local: &[LocalPod], own: &Own) {
    let key = |(pod, direction, peer, _): &Judged| (pod.index, *direction as usize, *peer);
    let now = judgements(&maps.rows, local, own);
    let now: BTreeMap<_, &Judged> = now.iter().map(|judged| (key(judged), judged)).collect();
    for (epoch, judged) in recorded {
        for then in judged {
            let Some(now) = now.get(&key(then)).filter(|now| now.0 == then.0) else { continue };
            let index = u32::from(now.0.index);
            let has_row = has_row(&maps.rows, &now.0);
            let is_current = has_row && maps.revisions.get(&index).is_none_or(|r| epoch >= r);
            assert!(!is_current || then == *now, "recorded at {epoch}: {then:?}, now {now:?}");
        }
    }
}

impl Event {
    fn is_of_leases(&self) -> bool {
        matches!(self, Event::Leases(_))
    }

    fn apply(self, index: &mut Index, local: &mut Vec<LocalPod>) {
        match self {
            Event::Change(change) => index.apply(change),
            Event::Edit(edit) => edit.change(index).into_iter().for_each(|c| index.apply(c)),
            Event::Leases(mut leases) => {
                renew(&mut leases, local);
                *local = leases;
            }
        }
    }
}

/// Applies events between two updates. Of the leases, only the last ones count: an index is used again with the next
/// generation, which needs an update in between.
fn apply_together(mut events: Vec<Event>, index: &mut Index, local: &mut Vec<LocalPod>) {
    let leases = events.extract_if(.., |event| event.is_of_leases()).last();
    events.into_iter().chain(leases).for_each(|event| event.apply(index, local));
}

/// Addresses that Pod objects have at any time.
fn own_of<'a>(objects: &[Object], events: impl IntoIterator<Item = &'a Event>) -> Own {
    let changed: Vec<&Object> = events
        .into_iter()
        .filter_map(|event| match event {
            Event::Change(Change::Apply(object)) => Some(object),
            _ => None,
        })
        .collect();
    own_addresses(objects.iter().chain(changed))
}

/// Gives each pod that has the index of another one the next generation.
fn renew(leases: &mut [LocalPod], old: &[LocalPod]) {
    for lease in leases {
        let has_changed = |old: &&LocalPod| old.index == lease.index && **old != *lease;
        if let Some(old) = old.iter().find(has_changed) {
            lease.generation = old.generation + 1;
        }
    }
}

/// A change of objects, or of leases.
#[derive(Clone, Debug)]
enum Event {
    Change(Change),
    Edit(generate::PolicyEdit),
    Leases(Vec<LocalPod>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => generate::policy_change().prop_map(Event::Change),
        6 => generate::policy_edit().prop_map(Event::Edit),
        1 => generate::leases().prop_map(Event::Leases),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(300), failure_persistence: None, ..Default::default() })]

    #[test]
    fn policies_do_not_depend_on_the_order_of_changes(
        objects in generate::policy_objects(),
        local in generate::leases(),
        changes in vec(generate::policy_change(), 0..10),
    ) {
        let mut index = Index::new(THIS_NODE);
        let mut policies = Policies::default();
        changes.into_iter().for_each(|change| index.apply(change));
        policies.update(&index, &index.clone().take_policy_dirty(), &[]);
        index.take_policy_dirty();
        for kind in crate::model::Kind::ALL {
            index.apply(Change::Retain(kind, vec![]));
        }
        objects.iter().rev().for_each(|o| index.apply(Change::Apply(o.clone())));
        policies.update(&index, &index.clone().take_policy_dirty(), &local);
        prop_assert_eq!(policies.rows(), afresh(&index, &local));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(200), failure_persistence: None, ..Default::default() })]

    #[test]
    fn changes_of_policies_are_atomic_and_equal_compiling_afresh(
        objects in generate::policy_objects(),
        first in generate::leases(),
        events in vec((event(), option::weighted(0.1, Just(())), option::weighted(0.3, Just(()))), 1..10),
    ) {
        let own = own_of(&objects, events.iter().map(|(event, ..)| event));
        let mut index = index_of(&objects);
        let mut local = first;
        let mut policies = Policies::default();
        let mut maps = Maps::default();
        for step in policies.update(&index, &index.clone().take_policy_dirty(), &local) {
            for write in step.writes(maps.epoch, &maps.rows.pods) {
                (0..write.len()).for_each(|at| maps.apply(&write, at));
            }
        }
        index.take_policy_dirty();
        prop_assert_eq!(&maps.rows, &policies.rows());
        let (mut leased, mut shared) = (false, share_addresses(&index));
        for (event, everything, together) in events {
            leased |= event.is_of_leases();
            event.apply(&mut index, &mut local);
            // An index is used again with the next generation, which needs an update in between.
            if together.is_some() && !leased {
                // Carried out with the next event.
                continue;
            }
            let dirty = index.take_policy_dirty();
            let objects = dirty.pods.len() + dirty.namespaces.len() + dirty.policies.len();
            let before = policies.rows();
            // One object is not a pod and its peer at once, unless it is their namespace, or pods share an
            // address.
            let leased = usize::from(std::mem::take(&mut leased));
            let shared_before = std::mem::replace(&mut shared, share_addresses(&index));
            let one = objects + leased + usize::from(dirty.nodes) <= 1
                && dirty.namespaces.is_empty()
                && !shared_before
                && !shared;
            let dirty = if everything.is_some() { PolicyDirty::everything() } else { dirty };
            let steps = policies.update(&index, &dirty, &local);
            let after = policies.rows();
            let mut fresh = Policies::default();
            fresh.update(&index, &PolicyDirty::everything(), &local);
            prop_assert_eq!(&after, &fresh.rows());
            prop_assert_eq!(&after.open_namespaces, &open_namespaces(&index, &local));
            for known in [KnownPods::OfCluster, KnownPods::OfNode] {
                let findings = policies.findings(&index, known);
                prop_assert_eq!(findings, fresh.findings(&index, known));
            }
            for step in &steps {
                let change = Transition { before: &before, after: &after, several: !one };
                carry_out(&mut maps, step, &local, &own, Some(change));
            }
            prop_assert_eq!(&maps.rows, &after);
            let mut again = policies.clone();
            prop_assert!(again.update(&index, &PolicyDirty::everything(), &local).is_empty());
        }
    }
}
