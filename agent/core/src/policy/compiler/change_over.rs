//! Pods of this node change over to new tables.
//!
//! A table whose rules change keeps its id, and its rows change in place. A pod that it judges before and
//! after is judged by one row for each flow. Pods that leave the table change over before that, and those that
//! get it after that: they never see rules of the table that are not theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rules::PortName;
use super::super::subjects::{Decisions, Ends, Standing};
use super::super::tables::Uses;
use super::super::{LocalPod, Step};
use super::{Changed, Policies};
use crate::index::Index;

/// How pods change over.
#[derive(Default)]
pub(super) struct ChangeOver {
    /// Identities of the tables whose rules change.
    rewritten: BTreeSet<u32>,
    /// The standings of pods: before tables are rewritten, when they are, and after that.
    stages: [BTreeMap<u16, Standing>; 3],
}

impl Policies {
    /// Makes the terms and port names of a new table active, less those of the table that it replaces.
    pub(super) fn activate(&mut self, index: &Index, table: u32) {
        let (terms, names) = self.tables.gained_uses(table, &self.rules);
        for term in terms {
            if self.terms.activate(term) {
                self.term(index, term, true);
            }
        }
        for name in names {
            self.pods.port_name(&name, true);
        }
    }

    pub(super) fn deactivate(
        &mut self,
        index: &Index,
        terms: Vec<u32>,
        names: BTreeSet<PortName>,
        changed: &mut Changed,
    ) {
        for term in terms {
            if self.terms.deactivate(term) {
                changed.ranges |= self.term(index, term, false);
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
        let rewritten = self.tables.rewritten(&decisions.new_tables);
        let identity = |end: Option<u32>| end.map(|table| self.tables.identity(table));
        let is_rewritten =
            |end: Option<u32>| identity(end).is_some_and(|identity| rewritten.contains(&identity));
        let stage =
            |old: Option<u32>, new: Option<u32>| match (is_rewritten(old), is_rewritten(new)) {
                _ if identity(old) == identity(new) => Some(1),
                (true, true) => None,
                (true, false) => Some(0),
                (false, _) => Some(2),
            };
        let mut stages: [BTreeMap<u16, Standing>; 3] = Default::default();
        let mut closed = Vec::new();
        for (at, new) in &decisions.standings {
            let Some((lease, old)) = self.subjects.get(*at) else { continue };
            if old == *new {
                continue;
            }
            stages[2].insert(*at, *new);
            if old.tables().any(|table| is_affected(lease, self.tables.identity(table))) {
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
        ChangeOver { rewritten, stages }
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
        let stays = decisions.standings.is_empty() && decisions.former.is_empty();
        let rewrites = |tables: &Policies, table: &u32| {
            plan.rewritten.contains(&tables.tables.identity(*table))
        };
        let (rewritten, new): (Vec<u32>, Vec<u32>) =
            decisions.new_tables.iter().partition(|table| rewrites(self, table));
        let (replaced, former): (Vec<u32>, Vec<u32>) =
            decisions.former.iter().partition(|table| rewrites(self, table));
        let mut steps = plan.stages.map(|standings| (standings, Step::default()));
        for table in new {
            self.tables.add(table, &self.rules, &self.terms, &self.classes);
        }
        for (stage, (standings, step)) in steps.iter_mut().enumerate() {
            let mut pods = BTreeSet::new();
            for (at, standing) in std::mem::take(standings) {
                if self.subjects.set(at, standing) {
                    pods.insert(at);
                }
            }
            match stage {
                0 | 1 if plan.rewritten.is_empty() => continue,
                2 if stays => continue,
                1 => {
                    for table in &rewritten {
                        self.tables.rewrite(*table, &self.rules, &self.terms, &self.classes);
                    }
                    self.retire(&replaced, &mut dead);
                }
                2 => {
                    let gone = self.retire(&former, &mut dead);
                    gone.into_iter().for_each(|table| self.tables.drop(table, &self.classes));
                }
                _ => {}
            }
            *step = self.step(index, Changed { pods, ..Changed::default() });
        }
        for policy in decisions.forgotten {
            self.rules.forget(policy, &mut self.terms);
        }
        (steps.map(|(_, step)| step), dead)
    }

    /// Removes references to tables; returns those that have none any more.
    fn retire(&mut self, tables: &[u32], dead: &mut Vec<Uses>) -> Vec<u32> {
        let mut gone = Vec::new();
        for table in tables.iter().copied() {
            if self.tables.registry.references(table) > 1 {
                self.tables.release(table);
                continue;
            }
            let uses = self.tables.lost_uses(table, &self.rules);
            let Some(rules) = self.tables.release(table) else { continue };
            gone.push(table);
            // The terms stay active until the last step.
            uses.0.iter().for_each(|term| self.terms.registry.retain(*term));
            for rule in rules.iter() {
                self.rules.release(rule, &mut self.terms);
            }
            dead.push(uses);
        }
        gone
    }
}
