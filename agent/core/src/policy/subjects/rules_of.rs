//! The rules of the policies that select a pod, as a table.

use std::collections::BTreeSet;

use sluice_abi::PolicyDirection;

use super::super::classes::numbered_ports;
use super::super::registry::content_id;
use super::super::rules::{CompiledPolicy, CompiledRule, Matches, Order, PortName};
use super::super::tables::{Identity, TableRules};
use super::Parts;
use crate::model::{ContainerPort, ObjectName};

/// The table of policies in one direction, with one more reference, and whether it is new. The policies,
/// with their numbers, are in their order.
pub fn table(
    policies: &[(u32, &CompiledPolicy)],
    direction: PolicyDirection,
    ports: &[ContainerPort],
    parts: &mut Parts<'_>,
) -> (u32, bool) {
    let (mut admin, mut own, mut baseline) = (Vec::new(), None, Vec::new());
    for (_, policy) in policies {
        let Some(rules) = &policy.ends[direction as usize] else { continue };
        let rules =
            rules.iter().filter_map(|rule| Some((rule.action, number(rule, ports, parts)?)));
        match policy.order {
            Order::Admin(..) => admin.extend(rules),
            Order::NetworkPolicy => {
                own.get_or_insert_with(Vec::new).extend(rules.map(|(_, rule)| rule))
            }
            Order::Baseline(..) => baseline.extend(rules),
        }
    }
    let own = own.map(|rules| unique(rules, parts));
    if own.is_some() {
        // Isolated pods never reach it.
        for (_, rule) in baseline.drain(..) {
            parts.rules.release(rule, parts.terms);
        }
    }
    let rules = TableRules {
        identity: identity(policies, direction, ports, parts),
        admin: admin.into(),
        network_policies: own,
        baseline: baseline.into(),
    };
    let (table, new) = parts.tables.intern(rules);
    if !new {
        for rule in parts.tables.registry.get(table).iter() {
            parts.rules.release(rule, parts.terms);
        }
    }
    (table, new)
}

/// The number of the identity of a table, with one more reference.
fn identity(
    policies: &[(u32, &CompiledPolicy)],
    direction: PolicyDirection,
    ports: &[ContainerPort],
    parts: &mut Parts<'_>,
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
    parts.tables.identities.intern(identity, id).0
}

/// The number of a rule, with one more reference; `None` if it matches nothing for a pod with these
/// ports.
fn number(rule: &CompiledRule, ports: &[ContainerPort], parts: &mut Parts<'_>) -> Option<u32> {
    match &rule.matches {
        Matches::Shared(rule) => {
            parts.rules.registry.retain(*rule);
            Some(*rule)
        }
        Matches::Named(rule) => parts.rules.resolve(rule, ports, parts.terms),
    }
}

/// Rules whose order has no meaning, sorted, each once.
fn unique(mut numbers: Vec<u32>, parts: &mut Parts<'_>) -> Box<[u32]> {
    numbers.sort_unstable();
    let mut unique: Vec<u32> = Vec::with_capacity(numbers.len());
    for rule in numbers {
        if unique.last() == Some(&rule) {
            parts.rules.release(rule, parts.terms);
        } else {
            unique.push(rule);
        }
    }
    unique.into()
}
