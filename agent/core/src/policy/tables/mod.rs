//! Rule tables: the rules of a set of policies in one direction, and their rows per class.
//!
//! Tiers and the order of rules decide here: what a table admits is one set of ports per class.

mod admitted;
mod maps;
mod rewrite;
mod table;
mod tier;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::{PolicyEnd, PolicyPorts};

use self::admitted::Admitted;
use self::maps::{TableMaps, key};
use self::rewrite::{admitted, uses};
use self::table::Table;
pub use self::table::{Gaps, Identity, TableRules};
use self::tier::Tier;
use super::FindingReason;
use super::classes::{ClassContent, Classes, NumberedPort};
use super::numbers::NumbersBy;
use super::ports::Ports;
use super::registry::{CLOSED, Registry, content_id};
use super::rules::{PortName, Rules};
use super::term::Terms;

/// Ports as in the maps, and the number of their set if they have one.
type Row = (PolicyPorts, Option<u32>);

/// What `POD_POLICY` has for a pod that is closed.
pub const CLOSED_END: PolicyEnd = PolicyEnd { table: CLOSED, otherwise: PolicyPorts::NONE };

/// Terms, sorted, and port names that a table uses.
pub type Uses = (Vec<u32>, BTreeSet<PortName>);

/// The tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Rules of each table; one reference per use by a pod. The present and the former rules of an
    /// identity have one id.
    pub registry: Registry<TableRules>,
    /// What tables belong to; one reference per table.
    pub identities: Registry<Identity>,
    /// By identity.
    live: BTreeMap<u32, Table>,
    /// Identities of tables.
    of_term: NumbersBy<u32>,
    of_name: NumbersBy<PortName>,
    pub(super) sets: Registry<Ports>,
    /// Rows that all sets take in `POLICY_PORTS`.
    set_rows: usize,
    /// The rows.
    pub maps: TableMaps,
}

impl Tables {
    /// The number of the table with these rules, with one more reference, and whether it is new. Takes
    /// over one reference to its identity and to each rule, if it is new.
    pub fn intern(&mut self, rules: TableRules) -> (u32, bool) {
        let identity = rules.identity;
        let (number, new) = self.registry.intern(rules, |_| self.identities.id(identity));
        if !new {
            self.identities.release(identity);
        }
        (number, new)
    }

    /// Removes a reference to a table; returns its rules if it was the last one.
    pub fn release(&mut self, number: u32) -> Option<Arc<TableRules>> {
        let rules = self.registry.release(number)?;
        self.identities.release(rules.identity);
        Some(rules)
    }

    /// Adds a table with its rows.
    pub fn add(&mut self, number: u32, rules: &Rules, terms: &Terms, classes: &Classes) {
        let identity = self.identity(number);
        let mut table = self.table(number, rules, terms);
        table.otherwise = self.row(&table.otherwise_ports);
        let of_terms = table.terms.iter().flat_map(|term| classes.of_term(*term));
        let of_names = table.names.iter().flat_map(|name| classes.of_name(name));
        let candidates: BTreeSet<u32> = of_terms.chain(of_names).collect();
        for term in &table.terms {
            self.of_term.insert(*term, identity);
        }
        for name in &table.names {
            self.of_name.insert(name.clone(), identity);
        }
        self.check_set(&mut table, None);
        if table.closed.is_none() {
            self.maps.set_base(&self.sets, &table, true);
        }
        for class in candidates {
            self.add_row(&mut table, class, classes);
        }
        self.live.insert(identity, table);
    }

    /// A table without rows.
    fn table(&self, number: u32, rules: &Rules, terms: &Terms) -> Table {
        let content = self.registry.get(number);
        let own =
            content.network_policies.iter().flatten().map(|rule| &**rules.registry.get(*rule));
        let any_peer = Admitted::of(own.clone().filter(|rule| rule.peers.is_none()));
        let by_term = admitted(
            own.flat_map(|rule| rule.peers.iter().flatten().map(move |term| (*term, rule)))
                .collect(),
        );
        let collides = self.identities.collides(content.identity);
        let (used, names) = uses(content.iter(), rules);
        let mut table = Table {
            content: Arc::clone(content),
            id: self.registry.id(number),
            admin: Tier::new(&content.admin, rules, terms),
            is_isolated: content.network_policies.is_some(),
            by_term,
            any_peer,
            baseline: Tier::new(&content.baseline, rules, terms),
            terms: used.into(),
            names,
            otherwise_ports: Ports::default(),
            otherwise: (PolicyPorts::NONE, None),
            rows: BTreeMap::new(),
            closed: collides.then_some(FindingReason::Collision),
        };
        table.otherwise_ports = table.ports(&ClassContent::default());
        table
    }

    /// Removes a table with its rows.
    pub fn drop(&mut self, number: u32, classes: &Classes) {
        let identity = self.identity(number);
        let Some(mut table) = self.live.remove(&identity) else { return };
        for term in &table.terms {
            self.of_term.remove(term, identity);
        }
        for name in &table.names {
            self.of_name.remove(name, identity);
        }
        for class in table.rows.keys().copied().collect::<Vec<_>>() {
            self.drop_row(&mut table, class, classes);
        }
        if table.closed.is_none() {
            self.maps.set_base(&self.sets, &table, false);
        }
        self.release_set(table.otherwise);
    }

    /// Adds the rows of a new class.
    pub fn add_class(&mut self, class: u32, classes: &Classes) {
        for number in self.candidates(classes.registry.get(class)) {
            if let Some(mut table) = self.live.remove(&number) {
                self.add_row(&mut table, class, classes);
                self.live.insert(number, table);
            }
        }
    }

    /// Removes the rows of a class whose content had the last reference.
    pub fn drop_class(&mut self, class: u32, content: &ClassContent, classes: &Classes) {
        for number in self.candidates(content) {
            if let Some(mut table) = self.live.remove(&number) {
                self.drop_row(&mut table, class, classes);
                self.live.insert(number, table);
            }
        }
    }

    /// The identities of tables that give another answer for one class than for the other. They use a term
    /// or a port name that one class has only.
    pub fn differing(&self, a: Option<u32>, b: Option<u32>, classes: &Classes) -> BTreeSet<u32> {
        let content = |class: Option<u32>| class.map(|class| &**classes.registry.get(class));
        let terms = |class| -> BTreeSet<u32> {
            content(class).into_iter().flat_map(|c| c.terms.iter().copied()).collect()
        };
        let named = |class| -> BTreeSet<NumberedPort> {
            content(class).into_iter().flat_map(|c| c.named.iter().cloned()).collect()
        };
        let only = ClassContent {
            terms: terms(a).symmetric_difference(&terms(b)).copied().collect(),
            named: named(a).symmetric_difference(&named(b)).cloned().collect(),
        };
        let answer = |table: &Table, class: Option<u32>| match class {
            Some(class) if classes.registry.collides(class) && table.has_deny_or_pass() => {
                PolicyPorts::NONE
            }
            class => class.and_then(|class| table.rows.get(&class)).unwrap_or(&table.otherwise).0,
        };
        let mut tables = self.candidates(&only);
        tables.retain(|number| {
            self.live.get(number).is_some_and(|table| answer(table, a) != answer(table, b))
        });
        tables
    }

    /// Number of the identity of a table.
    pub fn identity(&self, number: u32) -> u32 {
        self.registry.get(number).identity
    }

    /// The identities of new tables that replace the rules of present ones.
    pub fn rewritten(&self, new: &[u32]) -> BTreeSet<u32> {
        let identities = new.iter().map(|number| self.identity(*number));
        identities.filter(|identity| self.live.contains_key(identity)).collect()
    }

    /// What `POD_POLICY` has for a table.
    pub fn end(&self, number: u32) -> PolicyEnd {
        match self.live.get(&self.identity(number)) {
            Some(Table { closed: None, id, otherwise, .. }) => {
                PolicyEnd { table: *id, otherwise: otherwise.0 }
            }
            _ => CLOSED_END,
        }
    }

    /// Whether a table has rules of ClusterNetworkPolicies.
    pub fn has_tiers(&self, number: u32) -> bool {
        let rules = self.registry.get(number);
        !rules.admin.is_empty() || !rules.baseline.is_empty()
    }

    /// Why the pods of a table are closed.
    pub fn closed(&self, number: u32) -> Option<FindingReason> {
        self.live.get(&self.identity(number))?.closed
    }

    /// Closes tables until the others fit into the maps, and those that depend on a gap; the same ones
    /// whatever was before. Returns the rows of all, closed ones included.
    pub fn fit(&mut self, peers: usize, ports: usize, gaps: &Gaps, classes: &Classes) -> usize {
        let rows: usize = self.live.values().map(Table::len).sum();
        if rows <= peers && self.set_rows <= ports && *gaps == Gaps::default() {
            let closed =
                self.live.iter().filter(|(_, t)| t.closed == Some(FindingReason::Capacity));
            for number in closed.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.set_closed(number, false, classes);
            }
            return rows;
        }
        let mut by_id: Vec<(u64, u32)> = self.live.iter().map(|(n, t)| (t.id, *n)).collect();
        by_id.sort_unstable();
        let (mut peers, mut ports) = (peers, ports);
        for (_, number) in by_id {
            let Some(table) = self.live.get(&number) else { continue };
            let sets: BTreeSet<u32> =
                table.rows.values().chain([&table.otherwise]).filter_map(|row| row.1).collect();
            let keys = sets.iter().map(|set| self.sets.get(*set).rows(0).len()).sum::<usize>();
            let left = (peers.checked_sub(table.len()), ports.checked_sub(keys));
            let fits = match left {
                (Some(left_peers), Some(left_ports)) if !table.has_gap(gaps) => {
                    (peers, ports) = (left_peers, left_ports);
                    true
                }
                _ => false,
            };
            self.set_closed(number, !fits, classes);
        }
        rows
    }

    fn set_closed(&mut self, number: u32, close: bool, classes: &Classes) {
        let Some(mut table) = self.live.remove(&number) else { return };
        if close && table.closed.is_none() {
            self.maps.set_all(&self.sets, &table, classes, false);
            table.closed = Some(FindingReason::Capacity);
        } else if !close && table.closed == Some(FindingReason::Capacity) {
            self.maps.set_all(&self.sets, &table, classes, true);
            table.closed = None;
        }
        self.live.insert(number, table);
    }

    fn candidates(&self, class: &ClassContent) -> BTreeSet<u32> {
        let of_terms = class.terms.iter().flat_map(|term| self.of_term.of(term));
        let name = |(protocol, name, _): &(_, Arc<str>, _)| (*protocol, Arc::clone(name));
        let names: Vec<PortName> = class.named.iter().map(name).collect();
        of_terms.chain(names.iter().flat_map(|name| self.of_name.of(name))).collect()
    }

    fn add_row(&mut self, table: &mut Table, class: u32, classes: &Classes) {
        let ports = table.ports(classes.registry.get(class));
        if ports == table.otherwise_ports || classes.registry.collides(class) {
            return;
        }
        let row = self.row(&ports);
        self.check_set(table, Some((row, classes)));
        if table.closed.is_none() {
            self.maps.peers.set(key(table, class, classes), Some(row.0));
            self.maps.hold(&self.sets, row);
        }
        table.rows.insert(class, row);
    }

    fn drop_row(&mut self, table: &mut Table, class: u32, classes: &Classes) {
        let Some(row) = table.rows.remove(&class) else { return };
        if table.closed.is_none() {
            self.maps.peers.set(key(table, class, classes), None);
            self.maps.let_go(&self.sets, row);
        }
        self.release_set(row);
    }

    /// Closes a table for good if a set of ports that it needs has the id of another set.
    fn check_set(&mut self, table: &mut Table, row: Option<(Row, &Classes)>) {
        let set = row.map_or(table.otherwise, |(row, _)| row).1;
        if table.closed.is_some() || !set.is_some_and(|set| self.sets.collides(set)) {
            return;
        }
        if let Some((_, classes)) = row {
            self.maps.set_all(&self.sets, table, classes, false);
        }
        table.closed = Some(FindingReason::Collision);
    }

    /// The value for ports, with one reference to its set.
    fn row(&mut self, ports: &Ports) -> Row {
        if let Some(value) = ports.inline() {
            return (value, None);
        }
        let (set, new) = self.sets.intern(ports.clone(), |ports| content_id(ports));
        if new {
            self.set_rows += ports.rows(0).len();
        }
        (PolicyPorts::set(self.sets.id(set)), Some(set))
    }

    fn release_set(&mut self, row: Row) {
        if let Some(ports) = row.1.and_then(|set| self.sets.release(set)) {
            self.set_rows -= ports.rows(0).len();
        }
    }
}
