//! The rules of the policies that select a pod, as a table.

use sluice_abi::PolicyDirection;

use super::super::rules::{CompiledPolicy, CompiledRule, Matches, Order};
use super::super::tables::TableRules;
use super::Parts;
use crate::model::ContainerPort;

/// The table of policies in one direction, with one more reference, and whether it is new. The policies
/// are in their order.
pub fn table(
    policies: &[&CompiledPolicy],
    direction: PolicyDirection,
    ports: &[ContainerPort],
    parts: &mut Parts<'_>,
) -> (u32, bool) {
    let (mut admin, mut own, mut baseline) = (Vec::new(), None, Vec::new());
    for policy in policies {
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
    let rules =
        TableRules { admin: admin.into(), network_policies: own, baseline: baseline.into() };
    let (table, new) = parts.tables.intern(rules, parts.rules);
    if !new {
        for rule in parts.tables.registry.get(table).iter() {
            parts.rules.release(rule, parts.terms);
        }
    }
    (table, new)
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
