//! The rules of a table change: what they do not affect stays, and is not visited.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use super::super::classes::Classes;
use super::super::rules::{Rule, Rules};
use super::super::term::Terms;
use super::table::{Table, TableChange, TierChange, TierRules, uses};
use super::tier::Tier;
use super::{Tables, Uses};

/// Peers for which a change of rules may admit other ports.
#[derive(Default)]
struct Affected {
    /// Those that a term matches.
    terms: BTreeSet<u32>,
    /// All.
    all: bool,
}

impl Tables {
    /// A change without what stays as it is; `None` if nothing is left. The table exists.
    pub fn differing_change(
        &self,
        number: u32,
        mut change: TableChange,
        rules: &mut Rules,
        terms: &mut Terms,
    ) -> Option<TableChange> {
        let same = |of: &mut TierChange| {
            self.live.get(&number).is_some_and(|table| table.tiers == of.tiers)
        };
        if let Some(TierChange { tiers, rules: changed }) = change.tiers.take_if(same) {
            tiers.iter().chain(changed).for_each(|rule| rules.release(rule, terms));
        }
        let TableChange { lost, gained, tiers } = &change;
        let is_empty = lost.is_empty() && gained.is_empty() && tiers.is_none();
        (!is_empty).then_some(change)
    }

    /// The terms and port names that a change adds to those of a table.
    pub fn gained_uses(&self, number: u32, change: &TableChange, rules: &Rules) -> Uses {
        let of_tiers = change.tiers.iter().flat_map(|of| of.tiers.iter());
        let gained = change.gained.iter().copied().chain(of_tiers);
        let (mut terms, mut names) = uses(gained.map(|rule| rules.registry.get(rule)));
        if let Some(Table { users, .. }) = self.live.get(&number) {
            terms.retain(|term| !users.terms.contains_key(term));
            names.retain(|name| !users.names.contains_key(name));
        }
        (terms, names)
    }

    /// Changes the rules of a table. The rows that they do not affect stay. Returns the terms and port names
    /// that the table does not use any more, with one reference to each term.
    pub fn rewrite(
        &mut self,
        number: u32,
        change: TableChange,
        (rules, terms): (&mut Rules, &mut Terms),
        classes: &Classes,
    ) -> Uses {
        let Some(mut table) = self.take(number) else { return Uses::default() };
        let before = table.tiers.iter().collect::<Vec<_>>();
        let changed = change.lost.iter().chain(&change.gained).copied();
        let of_tiers =
            change.tiers.iter().flat_map(|of| before.iter().copied().chain(of.tiers.iter()));
        let visited: Vec<Arc<Rule>> =
            changed.chain(of_tiers).map(|rule| Arc::clone(rules.registry.get(rule))).collect();
        let former = table.users.among(visited.iter());
        let has_row = table.has_deny_or_pass();
        let unused = change.lost.clone();
        let (affected, of_tiers) = table.replace(change, rules, terms);
        let now = table.users.among(visited.iter());
        for term in now.0.difference(&former.0) {
            self.of_term.insert(*term, number);
        }
        for name in now.1.difference(&former.1) {
            self.of_name.insert(name.clone(), number);
        }
        let mut dead = former;
        dead.0.retain(|term| !now.0.contains(term));
        dead.1.retain(|name| !now.1.contains(name));
        dead.0.iter().for_each(|term| self.of_term.remove(term, number));
        dead.1.iter().for_each(|name| self.of_name.remove(name, number));
        if affected.all || table.closed.is_some() {
            self.clear(&mut table, classes);
            self.fill(&mut table, classes);
        } else {
            if has_row != table.has_deny_or_pass() {
                self.maps.set_collided(&table, true);
            }
            let of_terms = affected.terms.iter().flat_map(|term| classes.of_term(*term));
            for class in of_terms.collect::<BTreeSet<u32>>() {
                self.drop_row(&mut table, class, classes);
                self.add_row(&mut table, class, classes);
            }
        }
        self.put(table);
        dead.0.iter().for_each(|term| terms.registry.retain(*term));
        unused.into_iter().chain(of_tiers).for_each(|rule| rules.release(rule, terms));
        dead
    }
}

impl Table {
    /// Takes over other rules. Returns which peers they affect, and the rules of ClusterNetworkPolicies to
    /// which it has no reference any more.
    fn replace(
        &mut self,
        TableChange { lost, gained, tiers }: TableChange,
        rules: &Rules,
        terms: &Terms,
    ) -> (Affected, Vec<u32>) {
        let mut affected = Affected::default();
        let (mut own, mut any_peer) = (BTreeSet::new(), false);
        for (numbers, gained) in [(gained, true), (lost, false)] {
            for number in numbers {
                let rule = rules.registry.get(number);
                if gained {
                    self.add_own(number, rule);
                } else {
                    self.remove_own(number, rule);
                }
                own.extend(rule.peers.iter().flatten().copied());
                any_peer |= rule.peers.is_none();
            }
        }
        if any_peer {
            let now = self.admitted(None, rules).unwrap_or_default();
            affected.all |= now != mem::replace(&mut self.any_peer, now.clone());
        }
        for term in own {
            let now = self.admitted(Some(term), rules);
            if self.by_term.get(&term) == now.as_ref() {
                continue;
            }
            affected.terms.insert(term);
            match now {
                Some(now) => self.by_term.insert(term, now),
                None => self.by_term.remove(&term),
            };
        }
        let Some(TierChange { tiers, rules: changed }) = tiers else {
            return (affected, Vec::new());
        };
        // The others have the same order among themselves, and match what they matched.
        for rule in changed.iter().map(|number| rules.registry.get(*number)) {
            affected.terms.extend(rule.terms());
            affected.all |= rule.peers.is_none();
        }
        let former = self.set_tiers(tiers, rules, terms);
        (affected, former.iter().chain(changed).collect())
    }

    /// Sets the rules of ClusterNetworkPolicies; returns the former ones.
    pub fn set_tiers(&mut self, tiers: TierRules, rules: &Rules, terms: &Terms) -> TierRules {
        tiers.iter().for_each(|rule| self.users.add(rules.registry.get(rule)));
        self.tiers.iter().for_each(|rule| self.users.remove(rules.registry.get(rule)));
        self.admin = Tier::new(&tiers.admin, rules, terms);
        self.baseline = Tier::new(&tiers.baseline, rules, terms);
        mem::replace(&mut self.tiers, tiers)
    }
}
