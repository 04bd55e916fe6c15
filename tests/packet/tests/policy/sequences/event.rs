//! Random changes.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof};
use sluice_core::generate;
use sluice_core::model::Change;
use sluice_core::policy::LocalPod;

/// A change of objects, or of the pods of the node.
#[derive(Clone, Debug)]
pub enum Event {
    /// Of an object, whatever it was.
    Change(Change),
    /// Of several objects at once.
    Changes(Vec<Change>),
    /// Of an object that exists.
    Edit(generate::PolicyEdit),
    /// Other pods of the node.
    Leases(Vec<LocalPod>),
    /// A pod of the node is removed.
    Remove(usize),
    /// The object of the last change becomes what it was.
    Undo,
}

/// A change.
pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => generate::policy_change().prop_map(Event::Change),
        3 => vec(generate::policy_change(), 2..6).prop_map(Event::Changes),
        8 => generate::policy_edit().prop_map(Event::Edit),
        1 => generate::leases().prop_map(Event::Leases),
        1 => (0..6usize).prop_map(Event::Remove),
        3 => Just(Event::Undo),
    ]
}
