//! Ports that several rules admit together.

use super::super::classes::ClassContent;
use super::super::ports::{Ports, Union};
use super::super::rules::{PortName, Rule, one_port};

/// What all rules of a table with one term admit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Ports that are the same for every class.
    pub ports: Ports,
    names: Box<[PortName]>,
}

impl Admitted {
    /// What some rules admit.
    pub fn of<'a>(rules: impl Iterator<Item = &'a Rule> + Clone) -> Admitted {
        let (mut ports, mut names) = (Union::default(), Vec::new());
        for rule in rules {
            ports.add(&rule.ports);
            names.extend(rule.named.iter().cloned());
        }
        names.sort_unstable();
        names.dedup();
        Admitted { ports: ports.finish(), names: names.into() }
    }

    /// Adds the ports for a class.
    pub fn add_to(&self, union: &mut Union, class: &ClassContent) {
        union.add(&self.ports);
        add_named(union, &self.names, class);
    }
}

/// Adds the ports of a class that have one of some names.
pub fn add_named(union: &mut Union, names: &[PortName], class: &ClassContent) {
    for (protocol, name, port) in class.named.iter() {
        if names.iter().any(|(p, n)| p == protocol && n == name) {
            union.add_range(one_port(*protocol, *port));
        }
    }
}
