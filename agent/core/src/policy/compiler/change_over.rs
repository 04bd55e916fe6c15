//! Pods of this node change over to new tables.
//!
//! A table whose rules change keeps its id, and its rows change in place. A pod that it judges before and
//! after is judged by one row for each flow. Pods that leave the table change over before that, and those that
//! get it after that: they never see rules of the table that are not theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::super::subjects::{Decisions, Ends, Standing};
use super::super::tables::{Uses, uses};
use super::super::{LocalPod, Step};
use super::{Changed, Policies};
use crate::index::Index;

/// How pods change over.
#[derive(Default)]
pub(super) struct ChangeOver {
    /// The standings of pods: before tables are rewritten, when they are, and after that.
    stages: [BTreeMap<u16, Standing>; 3],
    /// Pods whose flows are judged again when tables are rewritten, because one is theirs.
    rewritten: BTreeSet<u16>,
}

impl Policies {
    /// Makes the terms and port names active that new tables, and new rules of others, have.
    pub(super) fn activate(&mut self, index: &Index, decisions: &Decisions) {
        let new = decisions.new_tables.values().map(|content| {
            let numbers = content.own.iter().flatten().copied().chain(content.tiers.iter());
            uses(numbers.map(|rule| self.rules.registry.get(rule)))
        });
        let changes = decisions.changes.iter();
        let gained =
            changes.map(|(table, change)| self.tables.gained_uses(*table, change, &self.rules));
        for (terms, names) in new.chain(gained).collect::<Vec<Uses>>() {
            for term in terms {
                if self.terms.activate(term) {
                    self.term(index, term, true);
                }
            }
            for name in names {
                self.pods.port_name(&name, true);
            }
        }
    }

    pub(super) fn deactivate(&mut self, index: &Index, (terms, names): Uses) {
        for term in terms {
            if self.terms.deactivate(term) {
                self.term(index, term, false);
            }
            self.terms.registry.release(term);
        }
        for name in names {
            self.pods.port_name(&name, false);
        }
    }

    /// Plans how pods change over. Closes pods whose present tables are affected by a change of peers, and pods
    /// that leave a table that is rewritten for another one that is rewritten.
    pub(super) fn plan(
        &mut self,
        decisions: &Decisions,
        is_affected: impl Fn(&LocalPod, u32) -> bool,
    ) -> ChangeOver {
        let is_rewritten =
            |end: Option<u32>| end.is_some_and(|table| decisions.changes.contains_key(&table));
        let stage =
            |old: Option<u32>, new: Option<u32>| match (is_rewritten(old), is_rewritten(new)) {
                _ if old == new => Some(1),
                (true, true) => None,
                (true, false) => Some(0),
                (false, _) => Some(2),
            };
        let mut stages: [BTreeMap<u16, Standing>; 3] = Default::default();
        let (mut rewritten, mut closed) = (BTreeSet::new(), Vec::new());
        for (at, new) in &decisions.standings {
            let Some((lease, old)) = self.subjects.get(*at) else { continue };
            if old == *new && !old.tables().any(|table| is_rewritten(Some(table))) {
                continue;
            }
            stages[2].insert(*at, *new);
            if old.tables().any(|table| is_affected(lease, table)) {
                closed.push(*at);
                continue;
            }
            let [from, to] = [old, *new].map(Standing::ends);
            let (Some(from), Some(to)) = (from, to) else {
                // Without a row before or after.
                if *new == Standing::Pending {
                    stages[0].insert(*at, *new);
                }
                continue;
            };
            let [egress, ingress] = [0, 1].map(|at| stage(from[at], to[at]));
            let (Some(egress), Some(ingress)) = (egress, ingress) else {
                closed.push(*at);
                continue;
            };
            if from.iter().zip(&to).any(|(from, to)| from == to && is_rewritten(*to)) {
                rewritten.insert(*at);
            }
            for (number, standings) in stages.iter_mut().enumerate().take(2) {
                let end = |at: usize, stage: usize| if stage <= number { to[at] } else { from[at] };
                let ends: Ends = [end(0, egress), end(1, ingress)];
                if ends != from {
                    standings.insert(*at, Standing::Judged(ends));
                }
            }
        }
        for at in closed {
            self.subjects.set(at, Standing::Moving);
        }
        ChangeOver { stages, rewritten }
    }

    /// Carries the plan out. Returns the steps, and what tables used that are not used any more, with one
    /// reference to each term.
    pub(super) fn change_over(
        &mut self,
        index: &Index,
        decisions: Decisions,
        plan: ChangeOver,
    ) -> ([Step; 3], Vec<Uses>) {
        let mut dead = Vec::new();
        let Decisions { standings, new_tables, changes, former, forgotten } = decisions;
        let (stays, rewrites) = (standings.is_empty() && former.is_empty(), !changes.is_empty());
        let (mut changes, mut former) = (Some(changes), Some(former));
        for (table, content) in new_tables {
            self.tables.add(table, content, &self.rules, &self.terms, &self.classes);
        }
        let mut steps: [Step; 3] = Default::default();
        for (stage, (standings, step)) in plan.stages.into_iter().zip(&mut steps).enumerate() {
            let mut pods = BTreeSet::new();
            for (at, standing) in standings {
                if self.subjects.set(at, standing) {
                    pods.insert(at);
                }
            }
            match stage {
                0 | 1 if !rewrites => continue,
                2 if stays => continue,
                1 => {
                    pods.extend(&plan.rewritten);
                    for (table, change) in changes.take().into_iter().flatten() {
                        let stores = (&mut self.rules, &mut self.terms);
                        dead.push(self.tables.rewrite(table, change, stores, &self.classes));
                    }
                }
                2 => {
                    for table in former.take().into_iter().flatten() {
                        if self.tables.identities.release(table).is_some() {
                            let stores = (&mut self.rules, &mut self.terms);
                            dead.push(self.tables.drop(table, stores, &self.classes));
                        }
                    }
                }
                _ => {}
            }
            *step = self.step(index, Changed { pods, ..Changed::default() });
        }
        for policy in forgotten {
            self.rules.forget(policy, &mut self.terms);
        }
        (steps, dead)
    }
}
