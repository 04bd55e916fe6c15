//! Classes: sets of peers that no active term and no port name in use distinguishes.

use std::sync::Arc;

use super::numbers::NumbersBy;
use super::registry::{Registry, content_id};
use super::rules::PortName;
use super::term::Terms;
use crate::model::{ContainerPort, Protocol};

/// Class of peers whose own class has the id of another one. Tables with rules that do not admit what
/// they match have a row for it, which admits nothing.
pub const COLLIDED_CLASS: u64 = u64::MAX;

/// A container port with its name and number.
pub type NumberedPort = (Protocol, Arc<str>, u16);

/// The container ports whose names are used, sorted.
pub fn numbered_ports(
    ports: &[ContainerPort],
    is_used: impl Fn(&PortName) -> bool,
) -> Vec<NumberedPort> {
    let used = ports.iter().filter_map(|port| {
        let name = (port.protocol, Arc::clone(&port.name));
        is_used(&name).then(|| (name.0, name.1, port.port.get()))
    });
    let mut numbered: Vec<NumberedPort> = used.collect();
    numbered.sort_unstable();
    numbered.dedup();
    numbered
}

/// What the peers of a class have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassContent {
    /// The active terms that match them, sorted.
    pub terms: Box<[u32]>,
    /// Their container ports whose names are in use, sorted.
    pub named: Arc<[NumberedPort]>,
}

impl ClassContent {
    /// Whether nothing matches the peers.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty() && self.named.is_empty()
    }
}

/// The classes of addresses and networks.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// The classes; one reference per address and network.
    pub registry: Registry<ClassContent>,
    of_term: NumbersBy<u32>,
    of_name: NumbersBy<PortName>,
}

impl Classes {
    /// The class with a content, with one more reference, and whether it is new.
    pub fn intern(&mut self, content: ClassContent, terms: &Terms) -> (u32, bool) {
        let (class, new) = self.registry.intern(content, |content| {
            let mut ids: Vec<u64> = content.terms.iter().map(|t| terms.registry.id(*t)).collect();
            ids.sort_unstable();
            content_id((ids, &content.named))
        });
        if new {
            let content = Arc::clone(self.registry.get(class));
            for term in &content.terms {
                self.of_term.insert(*term, class);
            }
            for (protocol, name, _) in content.named.iter() {
                let name = (*protocol, Arc::clone(name));
                self.of_name.insert(name, class);
            }
        }
        (class, new)
    }

    /// Removes a reference; returns the content if it was the last one.
    pub fn release(&mut self, class: u32) -> Option<Arc<ClassContent>> {
        let content = self.registry.release(class)?;
        for term in &content.terms {
            self.of_term.remove(term, class);
        }
        for (protocol, name, _) in content.named.iter() {
            self.of_name.remove(&(*protocol, Arc::clone(name)), class);
        }
        Some(content)
    }

    /// The classes that a term matches.
    pub fn of_term(&self, term: u32) -> impl Iterator<Item = u32> {
        self.of_term.of(&term)
    }

    /// The classes whose pods have a port with a name.
    pub fn of_name(&self, name: &PortName) -> impl Iterator<Item = u32> {
        self.of_name.of(name)
    }

    /// The id of a class in the maps; 0 for none, [`COLLIDED_CLASS`] for one whose id another content has.
    pub fn id(&self, class: Option<u32>) -> u64 {
        match class {
            Some(class) if !self.registry.collides(class) => self.registry.id(class),
            Some(_) => COLLIDED_CLASS,
            None => 0,
        }
    }
}
