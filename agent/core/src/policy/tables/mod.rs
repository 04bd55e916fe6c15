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

use self::maps::{TableMaps, key};
pub use self::table::{Gaps, Identity, TableChange, TableRules, TierChange, TierRules, uses};
use self::table::{Table, Users};
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

/// Terms and port names.
pub type Uses = (BTreeSet<u32>, BTreeSet<PortName>);

/// The tables, by the numbers of their identities.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What tables belong to; one reference per use by a pod.
    pub identities: Registry<Identity>,
    live: BTreeMap<u32, Table>,
    of_term: NumbersBy<u32>,
    of_name: NumbersBy<PortName>,
    pub(super) sets: Registry<Ports>,
    /// Rows that all tables take in `POLICY_PEERS`.
    rows: usize,
    /// Rows that all sets take in `POLICY_PORTS`.
    set_rows: usize,
    /// Number of tables that are closed because rows do not fit.
    not_fitting: usize,
    /// Tables that may have another [`Tables::end`] than before.
    changed: BTreeSet<u32>,
    /// Sets that were released since the last call of [`Tables::end_update`], by their ids.
    released: BTreeMap<u64, Arc<Ports>>,
    /// The rows.
    pub maps: TableMaps,
}

impl Tables {
    /// Takes a table out, to change it.
    fn take(&mut self, number: u32) -> Option<Table> {
        let table = self.live.remove(&number)?;
        self.rows -= table.len();
        self.not_fitting -= usize::from(table.closed == Some(FindingReason::Capacity));
        Some(table)
    }

    /// Puts a table in its place.
    fn put(&mut self, table: Table) {
        self.rows += table.len();
        self.not_fitting += usize::from(table.closed == Some(FindingReason::Capacity));
        self.live.insert(table.identity, table);
    }

    /// The tables that may have another [`Tables::end`] than at the last call.
    pub fn take_changed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// Adds a table with its rows.
    pub fn add(
        &mut self,
        number: u32,
        TableRules { own, tiers }: TableRules,
        rules: &Rules,
        terms: &Terms,
        classes: &Classes,
    ) {
        let mut table = Table::new(number, self.identities.id(number));
        table.is_isolated = own.is_some();
        for rule in own.into_iter().flatten() {
            table.add_own(rule, rules.registry.get(rule));
        }
        table.any_peer = table.admitted(None, rules).unwrap_or_default();
        table.set_tiers(tiers, rules, terms);
        let admitted = |term: &u32| Some((*term, table.admitted(Some(*term), rules)?));
        table.by_term = table.users.terms.keys().filter_map(admitted).collect();
        for term in table.users.terms.keys() {
            self.of_term.insert(*term, number);
        }
        for name in table.users.names.keys() {
            self.of_name.insert(name.clone(), number);
        }
        self.fill(&mut table, classes);
        self.put(table);
    }

    /// Removes a table with its rows and its references to rules. Returns what it used, with one reference to
    /// each term.
    pub fn drop(
        &mut self,
        number: u32,
        (rules, terms): (&mut Rules, &mut Terms),
        classes: &Classes,
    ) -> Uses {
        let Some(mut table) = self.take(number) else { return Uses::default() };
        let uses = table.users.all();
        uses.0.iter().for_each(|term| self.of_term.remove(term, number));
        uses.1.iter().for_each(|name| self.of_name.remove(name, number));
        self.clear(&mut table, classes);
        uses.0.iter().for_each(|term| terms.registry.retain(*term));
        table.rules(rules).into_iter().for_each(|rule| rules.release(rule, terms));
        uses
    }

    /// Computes all rows of a table that has none.
    fn fill(&mut self, table: &mut Table, classes: &Classes) {
        let collides = self.identities.collides(table.identity);
        table.closed = collides.then_some(FindingReason::Collision);
        table.otherwise_ports = table.ports(&ClassContent::default());
        table.otherwise = self.row(&table.otherwise_ports);
        self.changed.insert(table.identity);
        self.check_set(table, None);
        if table.closed.is_none() {
            self.maps.set_base(&self.sets, table, true);
        }
        let Users { terms, names } = &table.users;
        let of_terms = terms.keys().flat_map(|term| classes.of_term(*term));
        let of_names = names.keys().flat_map(|name| classes.of_name(name));
        for class in of_terms.chain(of_names).collect::<BTreeSet<u32>>() {
            self.add_row(table, class, classes);
        }
    }

    /// Removes all rows of a table.
    fn clear(&mut self, table: &mut Table, classes: &Classes) {
        for class in table.rows.keys().copied().collect::<Vec<_>>() {
            self.drop_row(table, class, classes);
        }
        if table.closed.is_none() {
            self.maps.set_base(&self.sets, table, false);
        }
        self.release_set(table.otherwise);
    }

    /// Adds the rows of a new class.
    pub fn add_class(&mut self, class: u32, classes: &Classes) {
        for number in self.candidates(classes.registry.get(class)) {
            if let Some(mut table) = self.take(number) {
                self.add_row(&mut table, class, classes);
                self.put(table);
            }
        }
    }

    /// Removes the rows of a class whose content had the last reference.
    pub fn drop_class(&mut self, class: u32, content: &ClassContent, classes: &Classes) {
        for number in self.candidates(content) {
            if let Some(mut table) = self.take(number) {
                self.drop_row(&mut table, class, classes);
                self.put(table);
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

    /// What `POD_POLICY` has for a table.
    pub fn end(&self, number: u32) -> PolicyEnd {
        match self.live.get(&number) {
            Some(Table { closed: None, id, otherwise, .. }) => {
                PolicyEnd { table: *id, otherwise: otherwise.0 }
            }
            _ => CLOSED_END,
        }
    }

    /// Whether a table has rules of ClusterNetworkPolicies.
    pub fn has_tiers(&self, number: u32) -> bool {
        self.live.get(&number).is_some_and(|t| !t.admin.is_empty() || !t.baseline.is_empty())
    }

    /// Why the pods of a table are closed.
    pub fn closed(&self, number: u32) -> Option<FindingReason> {
        self.live.get(&number)?.closed
    }

    /// Closes tables until the others fit into the maps, and those that depend on a gap; the same ones
    /// whatever was before. Returns the rows of all, closed ones included.
    pub fn fit(&mut self, peers: usize, ports: usize, gaps: &Gaps, classes: &Classes) -> usize {
        let rows = self.rows;
        if rows <= peers && self.set_rows <= ports && *gaps == Gaps::default() {
            if self.not_fitting == 0 {
                return rows;
            }
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
        let Some(mut table) = self.take(number) else { return };
        let former = table.closed;
        if close && table.closed.is_none() {
            self.maps.set_all(&self.sets, &table, classes, false);
            table.closed = Some(FindingReason::Capacity);
        } else if !close && table.closed == Some(FindingReason::Capacity) {
            self.maps.set_all(&self.sets, &table, classes, true);
            table.closed = None;
        }
        if table.closed != former {
            self.changed.insert(number);
        }
        self.put(table);
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
        self.changed.insert(table.identity);
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
            self.released.insert(row.0.id, ports);
        }
    }

    /// What a row admits, now or since the last call of [`Tables::end_update`].
    pub fn ports_of(&self, row: PolicyPorts) -> Ports {
        let set = || self.sets.with_id(row.id).or(self.released.get(&row.id));
        Ports::from_inline(row).or_else(|| set().map(|set| Ports::clone(set))).unwrap_or_default()
    }

    /// Forgets rows and sets from before.
    pub fn end_update(&mut self) {
        self.maps.peers.end_update();
        self.maps.ports.end_update();
        self.released.clear();
    }
}
