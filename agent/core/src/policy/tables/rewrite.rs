//! The rules of a table change: what they do not affect stays, and is not computed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::classes::Classes;
use super::super::rules::{PortName, Rule, Rules};
use super::super::term::Terms;
use super::admitted::Admitted;
use super::table::{Table, TableRules};
use super::{Tables, Uses};

/// The present rules of a table, and those that replace them.
struct Replacement {
    /// Numbers of the rules that the table loses.
    lost: Vec<u32>,
    /// Numbers of the rules that it gets.
    gained: Vec<u32>,
}

impl Replacement {
    fn new(old: &TableRules, new: &TableRules) -> Replacement {
        let sorted = |rules: &TableRules| {
            let mut numbers: Vec<u32> = rules.iter().collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let (old, new) = (sorted(old), sorted(new));
        Replacement { lost: without(&old, &new), gained: without(&new, &old) }
    }

    /// All rules that the table has either before or after.
    fn rules<'a>(&'a self, rules: &'a Rules) -> impl Iterator<Item = &'a Rule> + Clone {
        self.lost.iter().chain(&self.gained).map(|rule| &**rules.registry.get(*rule))
    }
}

/// The numbers that the other list does not have; both are sorted.
fn without(numbers: &[u32], others: &[u32]) -> Vec<u32> {
    let mut others = others.iter().peekable();
    let is_missing = |number: &&u32| {
        while others.next_if(|other| other < number).is_some() {}
        others.peek() != Some(number)
    };
    numbers.iter().filter(is_missing).copied().collect()
}

impl Tables {
    /// The terms and port names that a new table adds to those of the live one that it replaces, or all.
    pub fn gained_uses(&self, number: u32, rules: &Rules) -> Uses {
        let content = self.registry.get(number);
        let Some(live) = self.live.get(&content.identity) else {
            return uses(content.iter(), rules);
        };
        let gained = Replacement::new(&live.content, content).gained;
        live.without_uses(uses(gained.into_iter(), rules))
    }

    /// The terms and port names of a former table that the live one that has replaced it does not use, or
    /// all.
    pub fn lost_uses(&self, number: u32, rules: &Rules) -> Uses {
        let content = self.registry.get(number);
        match self.live.get(&content.identity) {
            Some(live) if live.content != *content => {
                let lost = Replacement::new(content, &live.content).lost;
                live.without_uses(uses(lost.into_iter(), rules))
            }
            _ => uses(content.iter(), rules),
        }
    }

    /// Replaces the rules of a table. The rows that they do not affect stay.
    pub fn rewrite(&mut self, number: u32, rules: &Rules, terms: &Terms, classes: &Classes) {
        let content = Arc::clone(self.registry.get(number));
        let identity = content.identity;
        let Some(mut table) = self.live.remove(&identity) else { return };
        let former = (table.terms.clone(), table.names.clone());
        let Some(affected) = table.replace(content, rules) else {
            self.live.insert(identity, table);
            self.drop(number, classes);
            self.add(number, rules, terms, classes);
            return;
        };
        for term in without(&former.0, &table.terms) {
            self.of_term.remove(&term, identity);
        }
        for term in without(&table.terms, &former.0) {
            self.of_term.insert(term, identity);
        }
        for name in former.1.difference(&table.names) {
            self.of_name.remove(name, identity);
        }
        for name in table.names.difference(&former.1) {
            self.of_name.insert(name.clone(), identity);
        }
        let of_terms = affected.iter().flat_map(|term| classes.of_term(*term));
        for class in of_terms.collect::<BTreeSet<u32>>() {
            self.drop_row(&mut table, class, classes);
            self.add_row(&mut table, class, classes);
        }
        self.live.insert(identity, table);
    }
}

impl Table {
    /// Takes over other rules. Returns the terms for which other ports are admitted; `None`, with nothing
    /// changed, if others than rules of NetworkPolicies with peers differ.
    fn replace(&mut self, content: Arc<TableRules>, rules: &Rules) -> Option<Vec<u32>> {
        let is_plain = |of: &TableRules| of.admin.is_empty() && of.baseline.is_empty();
        let change = Replacement::new(&self.content, &content);
        if self.closed.is_some()
            || !is_plain(&self.content)
            || !is_plain(&content)
            || self.is_isolated != content.network_policies.is_some()
            || change.rules(rules).any(|rule| rule.peers.is_none())
        {
            return None;
        }
        let terms: BTreeSet<u32> = change.rules(rules).flat_map(Rule::terms).collect();
        let all = content.iter().map(|rule| &**rules.registry.get(rule));
        if change.rules(rules).any(|rule| !rule.named.is_empty()) {
            self.names = all.clone().flat_map(|rule| rule.named.iter().cloned()).collect();
        }
        let own = all.flat_map(|rule| rule.peers.iter().flatten().map(move |term| (*term, rule)));
        let now = admitted(own.filter(|(term, _)| terms.contains(term)).collect());
        let mut differing = Vec::new();
        for term in terms {
            let [before, after] = [&self.by_term, &now].map(|by_term| {
                let at = by_term.binary_search_by_key(&term, |(term, _)| *term).ok()?;
                Some(&by_term[at].1)
            });
            if before != after {
                differing.push(term);
            }
        }
        let kept = std::mem::take(&mut self.by_term).into_iter();
        let kept = kept.filter(|(term, _)| differing.binary_search(term).is_err());
        let changed = now.into_iter().filter(|(term, _)| differing.binary_search(term).is_ok());
        let mut by_term: Vec<(u32, Admitted)> = kept.chain(changed).collect();
        by_term.sort_by_key(|(term, _)| *term);
        self.terms = by_term.iter().map(|(term, _)| *term).collect();
        self.by_term = by_term.into();
        self.content = content;
        Some(differing)
    }

    /// Without the terms and port names that it uses.
    fn without_uses(&self, (terms, mut names): Uses) -> Uses {
        names.retain(|name| !self.names.contains(name));
        (without(&terms, &self.terms), names)
    }
}

/// The terms and port names of rules; terms are sorted.
pub fn uses(numbers: impl Iterator<Item = u32>, rules: &Rules) -> Uses {
    let (mut terms, mut names) = (Vec::new(), BTreeSet::<PortName>::new());
    for rule in numbers.map(|number| rules.registry.get(number)) {
        terms.extend(rule.terms());
        names.extend(rule.named.iter().cloned());
    }
    terms.sort_unstable();
    terms.dedup();
    (terms, names)
}

/// What rules admit, by their terms, which are sorted in the result.
pub fn admitted(mut by_term: Vec<(u32, &Rule)>) -> Box<[(u32, Admitted)]> {
    by_term.sort_by_key(|(term, _)| *term);
    let of_term = |rules: &[(u32, &Rule)]| {
        Some((rules.first()?.0, Admitted::of(rules.iter().map(|(_, rule)| *rule))))
    };
    by_term.chunk_by(|a, b| a.0 == b.0).filter_map(of_term).collect()
}
