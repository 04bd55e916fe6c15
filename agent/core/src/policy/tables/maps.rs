//! The rows of rule tables in the maps.

use std::collections::HashMap;

use sluice_abi::{PolicyPeerKey, PolicyPortKey, PolicyPorts, ports_kind};

use super::super::classes::{COLLIDED_CLASS, Classes};
use super::super::ports::Ports;
use super::super::registry::Registry;
use super::super::tracked::Tracked;
use super::Row;
use super::table::Table;

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

/// The key of a class in a table.
pub fn key(table: &Table, class: u32, classes: &Classes) -> PolicyPeerKey {
    PolicyPeerKey { table: table.id, class: classes.registry.id(class) }
}

impl TableMaps {
    /// Adds or removes all rows of a table.
    pub fn set_all(&mut self, sets: &Registry<Ports>, table: &Table, classes: &Classes, on: bool) {
        for (class, row) in &table.rows {
            self.peers.set(key(table, *class, classes), on.then_some(row.0));
            self.set_held(sets, *row, on);
        }
        self.set_base(sets, table, on);
    }

    /// Adds or removes what a table has without classes.
    pub fn set_base(&mut self, sets: &Registry<Ports>, table: &Table, on: bool) {
        self.set_collided(table, on);
        self.set_held(sets, table.otherwise, on);
    }

    /// Adds or removes the row for classes with the id of another one.
    pub fn set_collided(&mut self, table: &Table, on: bool) {
        let key = PolicyPeerKey { table: table.id, class: COLLIDED_CLASS };
        self.peers.set(key, (on && table.has_deny_or_pass()).then_some(PolicyPorts::NONE));
    }

    fn set_held(&mut self, sets: &Registry<Ports>, row: Row, on: bool) {
        if on { self.hold(sets, row) } else { self.let_go(sets, row) }
    }

    /// A row refers to a set of ports.
    pub fn hold(&mut self, sets: &Registry<Ports>, row: Row) {
        let Some(set) = row.1 else { return };
        debug_assert_eq!(row.0.kind, ports_kind::SET);
        let users = self.users.entry(set).or_default();
        *users += 1;
        if *users == 1 {
            for (key, value) in sets.get(set).rows(sets.id(set)) {
                self.ports.set(key, Some(value));
            }
        }
    }

    /// A row does not refer to a set of ports any more.
    pub fn let_go(&mut self, sets: &Registry<Ports>, row: Row) {
        let Some(set) = row.1 else { return };
        let Some(users) = self.users.get_mut(&set) else { return };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&set);
            for (key, _) in sets.get(set).rows(sets.id(set)) {
                self.ports.set(key, None);
            }
        }
    }
}
