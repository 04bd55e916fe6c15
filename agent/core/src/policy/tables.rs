//! Rule tables: the rules of a set of policies in one direction, and their rows per class.

mod admitted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_abi::{PolicyEnd, PolicyPeerKey, PolicyPortKey, PolicyPorts, ports_kind};

use self::admitted::Admitted;
use super::FindingReason;
use super::classes::{ClassContent, Classes, NumberedPort};
use super::numbers::NumbersBy;
use super::ports::{Ports, Union};
use super::registry::{CLOSED, Registry, content_id};
use super::rules::{PortName, Rule, Rules};
use super::tracked::Tracked;

/// Ports as in the maps, and the number of their set if they have one.
type Row = (PolicyPorts, Option<u32>);

/// A table that pods use.
#[derive(Clone, Debug)]
struct Table {
    id: u64,
    /// By term, sorted.
    by_term: Box<[(u32, Admitted)]>,
    /// What rules without peers admit.
    any_peer: Admitted,
    names: BTreeSet<PortName>,
    otherwise: Row,
    /// By class: ports that differ from those for every peer.
    rows: BTreeMap<u32, Row>,
    /// Why its pods are closed.
    closed: Option<FindingReason>,
}

impl Table {
    fn terms(&self) -> impl Iterator<Item = u32> {
        self.by_term.iter().map(|(term, _)| *term)
    }

    /// The ports for a class.
    fn ports(&self, class: &ClassContent) -> Ports {
        let mut union = Union::default();
        self.any_peer.add_to(&mut union, class);
        if class.terms.len() <= self.by_term.len() {
            for term in &class.terms {
                if let Ok(at) = self.by_term.binary_search_by_key(term, |(term, _)| *term) {
                    self.by_term[at].1.add_to(&mut union, class);
                }
            }
        } else {
            for (_, admitted) in
                self.by_term.iter().filter(|(term, _)| class.terms.binary_search(term).is_ok())
            {
                admitted.add_to(&mut union, class);
            }
        }
        union.finish()
    }
}

/// Rows of the maps of rule tables.
#[derive(Clone, Debug, Default)]
pub struct TableMaps {
    /// `POLICY_PEERS`.
    pub peers: Tracked<PolicyPeerKey, PolicyPorts>,
    /// `POLICY_PORTS`.
    pub ports: Tracked<PolicyPortKey, u32>,
    /// Number of rows that refer to each set of ports.
    users: HashMap<u32, u32>,
}

/// The tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Rules of each table, sorted; one reference per use by a pod.
    pub registry: Registry<Box<[u32]>>,
    live: BTreeMap<u32, Table>,
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
    /// over one reference to each rule.
    pub fn intern(&mut self, rules: Box<[u32]>, known: &Rules) -> (u32, bool) {
        self.registry.intern(rules, |rules| {
            let mut ids: Vec<u64> = rules.iter().map(|r| known.registry.id(*r)).collect();
            ids.sort_unstable();
            content_id(ids)
        })
    }

    /// The terms and port names of a table that may not be live yet.
    pub fn uses(&self, table: u32, rules: &Rules) -> (BTreeSet<u32>, BTreeSet<PortName>) {
        let rules = self.registry.get(table).iter().map(|rule| rules.registry.get(*rule));
        let (mut terms, mut names) = (BTreeSet::new(), BTreeSet::new());
        for rule in rules {
            terms.extend(rule.peers.iter().flatten());
            names.extend(rule.named.iter().cloned());
        }
        (terms, names)
    }

    /// Adds a table with its rows.
    pub fn add(&mut self, number: u32, rules: &Rules, classes: &Classes) {
        let content = Arc::clone(self.registry.get(number));
        let content = content.iter().map(|rule| &**rules.registry.get(*rule));
        let any_peer = Admitted::of(content.clone().filter(|rule| rule.peers.is_none()));
        let names = content.clone().flat_map(|rule| rule.named.iter().cloned()).collect();
        let mut by_term: Vec<(u32, &Rule)> = content
            .flat_map(|rule| rule.peers.iter().flatten().map(move |term| (*term, rule)))
            .collect();
        by_term.sort_unstable_by_key(|(term, _)| *term);
        let of_term = |rules: &[(u32, &Rule)]| {
            Some((rules.first()?.0, Admitted::of(rules.iter().map(|(_, rule)| *rule))))
        };
        let by_term = by_term.chunk_by(|a, b| a.0 == b.0).filter_map(of_term).collect();
        let collides = self.registry.collides(number);
        let mut table = Table {
            id: self.registry.id(number),
            by_term,
            otherwise: self.row(&any_peer.ports),
            any_peer,
            names,
            rows: BTreeMap::new(),
            closed: collides.then_some(FindingReason::Collision),
        };
        let of_terms = table.terms().flat_map(|term| classes.of_term(term));
        let of_names = table.names.iter().flat_map(|name| classes.of_name(name));
        let candidates: BTreeSet<u32> = of_terms.chain(of_names).collect();
        for term in table.terms() {
            self.of_term.insert(term, number);
        }
        for name in &table.names {
            self.of_name.insert(name.clone(), number);
        }
        self.check_set(&mut table, None);
        if table.closed.is_none() {
            self.maps.hold(&self.sets, table.otherwise);
        }
        for class in candidates {
            self.add_row(&mut table, class, classes);
        }
        self.live.insert(number, table);
    }

    /// Removes a table with its rows.
    pub fn drop(&mut self, number: u32, classes: &Classes) {
        let Some(mut table) = self.live.remove(&number) else { return };
        for term in table.terms() {
            self.of_term.remove(&term, number);
        }
        for name in &table.names {
            self.of_name.remove(name, number);
        }
        for class in table.rows.keys().copied().collect::<Vec<_>>() {
            self.drop_row(&mut table, class, classes);
        }
        if table.closed.is_none() {
            self.maps.let_go(&self.sets, table.otherwise);
        }
        self.release(table.otherwise);
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

    /// The tables that give another answer for one class than for the other. They use a term or a port
    /// name that one class has only.
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
        let answer = |table: &Table, class: Option<u32>| {
            class.and_then(|class| table.rows.get(&class)).unwrap_or(&table.otherwise).0
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
            _ => PolicyEnd { table: CLOSED, otherwise: PolicyPorts::NONE },
        }
    }

    /// Why the pods of a table are closed.
    pub fn closed(&self, number: u32) -> Option<FindingReason> {
        self.live.get(&number)?.closed
    }

    /// Closes tables until the others fit into the maps; the same ones whatever was before.
    pub fn fit(&mut self, peers: usize, ports: usize, classes: &Classes) {
        let rows: usize = self.live.values().map(|table| table.rows.len()).sum();
        if rows <= peers && self.set_rows <= ports {
            let closed =
                self.live.iter().filter(|(_, t)| t.closed == Some(FindingReason::Capacity));
            for number in closed.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.set_closed(number, false, classes);
            }
            return;
        }
        let mut by_id: Vec<(u64, u32)> = self.live.iter().map(|(n, t)| (t.id, *n)).collect();
        by_id.sort_unstable();
        let (mut peers, mut ports) = (peers, ports);
        for (_, number) in by_id {
            let Some(table) = self.live.get(&number) else { continue };
            let sets: BTreeSet<u32> =
                table.rows.values().chain([&table.otherwise]).filter_map(|row| row.1).collect();
            let keys = sets.iter().map(|set| self.sets.get(*set).keys(0).len()).sum::<usize>();
            let left = (peers.checked_sub(table.rows.len()), ports.checked_sub(keys));
            let fits = match left {
                (Some(left_peers), Some(left_ports)) => {
                    (peers, ports) = (left_peers, left_ports);
                    true
                }
                _ => false,
            };
            self.set_closed(number, !fits, classes);
        }
    }

    fn set_closed(&mut self, number: u32, close: bool, classes: &Classes) {
        let Some(mut table) = self.live.remove(&number) else { return };
        let rows: Vec<(u32, Row)> = table.rows.iter().map(|(class, row)| (*class, *row)).collect();
        if close && table.closed.is_none() {
            for (class, row) in rows {
                self.maps.peers.set(key(&table, class, classes), None);
                self.maps.let_go(&self.sets, row);
            }
            self.maps.let_go(&self.sets, table.otherwise);
            table.closed = Some(FindingReason::Capacity);
        } else if !close && table.closed == Some(FindingReason::Capacity) {
            for (class, row) in rows {
                self.maps.peers.set(key(&table, class, classes), Some(row.0));
                self.maps.hold(&self.sets, row);
            }
            self.maps.hold(&self.sets, table.otherwise);
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
        if ports == table.any_peer.ports || classes.registry.collides(class) {
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
        self.release(row);
    }

    /// Closes a table for good if a set of ports that it needs has the id of another set.
    fn check_set(&mut self, table: &mut Table, row: Option<(Row, &Classes)>) {
        let set = row.map_or(table.otherwise, |(row, _)| row).1;
        if table.closed.is_some() || !set.is_some_and(|set| self.sets.collides(set)) {
            return;
        }
        if let Some((_, classes)) = row {
            for (class, row) in &table.rows {
                self.maps.peers.set(key(table, *class, classes), None);
                self.maps.let_go(&self.sets, *row);
            }
            self.maps.let_go(&self.sets, table.otherwise);
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
            self.set_rows += ports.keys(0).len();
        }
        (PolicyPorts::set(self.sets.id(set)), Some(set))
    }

    fn release(&mut self, row: Row) {
        if let Some(ports) = row.1.and_then(|set| self.sets.release(set)) {
            self.set_rows -= ports.keys(0).len();
        }
    }
}

fn key(table: &Table, class: u32, classes: &Classes) -> PolicyPeerKey {
    PolicyPeerKey { table: table.id, class: classes.registry.id(class) }
}

impl TableMaps {
    /// A row refers to a set of ports.
    fn hold(&mut self, sets: &Registry<Ports>, row: Row) {
        let Some(set) = row.1 else { return };
        debug_assert_eq!(row.0.kind, ports_kind::SET);
        let users = self.users.entry(set).or_default();
        *users += 1;
        if *users == 1 {
            for key in sets.get(set).keys(sets.id(set)) {
                self.ports.set(key, Some(1));
            }
        }
    }

    /// A row does not refer to a set of ports any more.
    fn let_go(&mut self, sets: &Registry<Ports>, row: Row) {
        let Some(set) = row.1 else { return };
        let Some(users) = self.users.get_mut(&set) else { return };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&set);
            for key in sets.get(set).keys(sets.id(set)) {
                self.ports.set(key, None);
            }
        }
    }
}
