//! The rules of the policies that select a pod, as a table.

use std::collections::BTreeSet;

use sluice_abi::PolicyDirection;

use super::super::classes::numbered_ports;
use super::super::registry::content_id;
use super::super::rules::{CompiledPolicy, CompiledRule, Matches, Order, PortName};
use super::super::tables::{Identity, TableRules};
use super::Stores;
use crate::model::{ContainerPort, ObjectName};

/// The table of policies in one direction, with one more reference, and whether it is new. The policies,
/// with their numbers, are in their order.
pub fn table(
    policies: &[(u32, &CompiledPolicy)],
    direction: PolicyDirection,
    ports: &[ContainerPort],
    stores: &mut Stores<'_>,
) -> (u32, bool) {
    let (mut admin, mut own, mut baseline) = (Vec::new(), None, Vec::new());
    for (_, policy) in policies {
        let Some(rules) = &policy.ends[direction as usize] else { continue };
        let rules =
            rules.iter().filter_map(|rule| Some((rule.action, number(rule, ports, stores)?)));
        match policy.order {
            Order::Admin(..) => admin.extend(rules),
            Order::NetworkPolicy => {
                own.get_or_insert_with(Vec::new).extend(rules.map(|(_, rule)| rule))
            }
            Order::Baseline(..) => baseline.extend(rules),
        }
    }
    let own = own.map(|rules| unique(rules, stores));
    if own.is_some() {
        // Isolated pods never reach it.
        for (_, rule) in baseline.drain(..) {
            stores.rules.release(rule, stores.terms);
        }
    }
    let rules = TableRules {
        identity: identity(policies, direction, ports, stores),
        admin: admin.into(),
        network_policies: own,
        baseline: baseline.into(),
    };
    let (table, new) = stores.tables.intern(rules);
    if !new {
        for rule in stores.tables.registry.get(table).iter() {
            stores.rules.release(rule, stores.terms);
        }
    }
    (table, new)
}

/// The number of the identity of a table, with one more reference.
fn identity(
    policies: &[(u32, &CompiledPolicy)],
    direction: PolicyDirection,
    ports: &[ContainerPort],
    stores: &mut Stores<'_>,
) -> u32 {
    let mut numbers: Vec<u32> = policies.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let rules = policies.iter().filter_map(|(_, policy)| policy.ends[direction as usize].as_ref());
    let names: BTreeSet<&PortName> = rules
        .flatten()
        .filter_map(|rule| match &rule.matches {
            Matches::Named(rule) => Some(&rule.named),
            Matches::Shared(_) => None,
        })
        .flatten()
        .collect();
    let named = numbered_ports(ports, |name| names.contains(name));
    let identity = Identity { direction, policies: numbers.into(), named: named.into() };
    let id = |identity: &Identity| {
        let mut names: Vec<&ObjectName> = policies.iter().map(|(_, policy)| &policy.name).collect();
        names.sort_unstable();
        content_id((direction as u8, names, &identity.named))
    };
    stores.tables.identities.intern(identity, id).0
}

/// The number of a rule, with one more reference; `None` if it matches nothing for a pod with these
/// ports.
fn number(rule: &CompiledRule, ports: &[ContainerPort], stores: &mut Stores<'_>) -> Option<u32> {
    match &rule.matches {
        Matches::Shared(rule) => {
            stores.rules.registry.retain(*rule);
            Some(*rule)
        }
        Matches::Named(rule) => stores.rules.resolve(rule, ports, stores.terms),
    }
}

/// Rules whose order has no meaning, sorted, each once.
fn unique(mut numbers: Vec<u32>, stores: &mut Stores<'_>) -> Box<[u32]> {
    numbers.sort_unstable();
    let mut unique: Vec<u32> = Vec::with_capacity(numbers.len());
    for rule in numbers {
        if unique.last() == Some(&rule) {
            stores.rules.release(rule, stores.terms);
        } else {
            unique.push(rule);
        }
    }
    unique.into()
}
