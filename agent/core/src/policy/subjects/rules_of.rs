//! The rules of the policies that select a pod, as a table, and what a change of policies changes in them.

use std::collections::BTreeMap;

use sluice_abi::PolicyDirection;

use super::super::classes::{NumberedPort, numbered_ports};
use super::super::registry::content_id;
use super::super::rules::{CompiledPolicy, CompiledRule, Matches, Order};
use super::super::tables::{Identity, TableChange, TableRules, TierChange, TierRules};
use super::policies::BySelector;
use super::{Stores, Subject};
use crate::model::{ContainerPort, ObjectName, RuleAction};

/// The policies that an update changes, by the numbers of their selectors.
#[derive(Debug, Default)]
pub struct ChangedPolicies(BTreeMap<u32, OfSelector>);

#[derive(Debug, Default)]
struct OfSelector {
    former: Vec<CompiledPolicy>,
    /// Names of present ones.
    present: Vec<ObjectName>,
}

impl ChangedPolicies {
    /// A policy with this selector was changed or deleted.
    pub fn former(&mut self, selector: u32, policy: CompiledPolicy) {
        self.0.entry(selector).or_default().former.push(policy);
    }

    /// A policy with this selector was changed or added.
    pub fn present(&mut self, selector: u32, policy: &ObjectName) {
        self.0.entry(selector).or_default().present.push(policy.clone());
    }

    /// Whether no policy was changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are not present any more.
    pub fn into_former(self) -> Vec<CompiledPolicy> {
        self.0.into_values().flat_map(|of| of.former).collect()
    }
}

/// The number of the identity of the table of a pod in one direction, with one more reference, and whether
/// it is new; `None`: no policy affects the direction.
pub fn identity(
    policies: &BySelector,
    subject: &Subject,
    direction: PolicyDirection,
    ports: &[ContainerPort],
    stores: &mut Stores<'_>,
) -> Option<(u32, bool)> {
    let known = |selector: &u32| Some((*selector, policies.get(*selector)?));
    let affecting = subject.selected.iter().filter_map(known);
    let affecting: Vec<_> = affecting.filter(|(_, of)| of.affects(direction)).collect();
    if affecting.is_empty() {
        return None;
    }
    let named = match direction {
        PolicyDirection::Egress => Vec::new(),
        PolicyDirection::Ingress => {
            numbered_ports(ports, |name| affecting.iter().any(|(_, of)| of.has_name(name)))
        }
    };
    let selectors = affecting.iter().map(|(selector, _)| *selector).collect();
    let identity = Identity { direction, selectors, named: named.into() };
    let id = |identity: &Identity| {
        let mut ids: Vec<u64> = identity.selectors.iter().map(|s| policies.id(*s)).collect();
        ids.sort_unstable();
        content_id((direction as u8, ids, &identity.named))
    };
    Some(stores.tables.identities.intern(identity, id))
}

/// All rules of a table, each with one more reference.
pub fn rules(policies: &BySelector, identity: &Identity, stores: &mut Stores<'_>) -> TableRules {
    let own = is_isolated(policies, identity).then(|| {
        let selectors = identity.selectors.iter().filter(|s| !policies.is_of_cluster(**s));
        let policies = selectors.filter_map(|selector| policies.get(*selector));
        let mut own = Vec::new();
        for policy in policies.flat_map(|of| of.policies.values()) {
            own.extend(numbers(policy, identity, stores).into_iter().map(|(_, rule)| rule));
        }
        own
    });
    TableRules { own, tiers: tiers(policies, identity, stores) }
}

/// What a change of policies changes in a table that exists before and after it.
pub fn change(
    policies: &BySelector,
    changed: &ChangedPolicies,
    identity: &Identity,
    stores: &mut Stores<'_>,
) -> TableChange {
    let mut change = TableChange::default();
    let (mut own, mut of_tiers) = (BTreeMap::<u32, i64>::new(), Vec::new());
    for selector in identity.selectors.iter() {
        let (Some(of), Some(now)) = (changed.0.get(selector), policies.get(*selector)) else {
            continue;
        };
        let present = of.present.iter().filter_map(|name| now.policies.get(name));
        let former = of.former.iter().map(|policy| (policy, -1));
        for (policy, sign) in former.chain(present.map(|policy| (policy, 1))) {
            for (_, rule) in numbers(policy, identity, stores) {
                match policy.order {
                    Order::NetworkPolicy => {
                        *own.entry(rule).or_default() += sign;
                        // References that are kept are those of `gained`.
                        if sign < 0 {
                            stores.rules.release(rule, stores.terms);
                        } else {
                            change.gained.push(rule);
                        }
                    }
                    Order::Admin(..) | Order::Baseline(..) => of_tiers.push(rule),
                }
            }
        }
    }
    // Rules that a former policy has too stay.
    change.gained.retain(|rule| match own.get_mut(rule) {
        Some(net) if *net > 0 => {
            *net -= 1;
            true
        }
        _ => {
            stores.rules.release(*rule, stores.terms);
            false
        }
    });
    for (rule, net) in own.into_iter().filter(|(_, net)| *net < 0) {
        (net..0).for_each(|_| change.lost.push(rule));
    }
    if !of_tiers.is_empty() {
        change.tiers =
            Some(TierChange { tiers: tiers(policies, identity, stores), rules: of_tiers });
    }
    change
}

/// Whether NetworkPolicies isolate the pods of a table.
fn is_isolated(policies: &BySelector, identity: &Identity) -> bool {
    identity.selectors.iter().any(|selector| !policies.is_of_cluster(*selector))
}

/// The rules of ClusterNetworkPolicies in order, each with one more reference. Isolated pods never reach
/// the tier Baseline.
fn tiers(policies: &BySelector, identity: &Identity, stores: &mut Stores<'_>) -> TierRules {
    let selectors = identity.selectors.iter().filter(|s| policies.is_of_cluster(**s));
    let of_selectors = selectors.filter_map(|selector| policies.get(*selector));
    let mut ordered: Vec<&CompiledPolicy> =
        of_selectors.flat_map(|of| of.policies.values()).collect();
    ordered.sort_by_key(|policy| &policy.order);
    let is_isolated = is_isolated(policies, identity);
    let mut tiers = TierRules::default();
    for policy in ordered {
        match policy.order {
            Order::Admin(..) => tiers.admin.extend(numbers(policy, identity, stores)),
            Order::Baseline(..) if !is_isolated => {
                tiers.baseline.extend(numbers(policy, identity, stores));
            }
            _ => {}
        }
    }
    tiers
}

/// The rules of a policy in the direction of a table, each with one more reference, without those that
/// match nothing for its pods.
fn numbers(
    policy: &CompiledPolicy,
    identity: &Identity,
    stores: &mut Stores<'_>,
) -> Vec<(RuleAction, u32)> {
    let rules = policy.ends[identity.direction as usize].iter().flatten();
    rules.filter_map(|rule| Some((rule.action, number(rule, &identity.named, stores)?))).collect()
}

fn number(rule: &CompiledRule, ports: &[NumberedPort], stores: &mut Stores<'_>) -> Option<u32> {
    match &rule.matches {
        Matches::Shared(rule) => {
            stores.rules.registry.retain(*rule);
            Some(*rule)
        }
        Matches::Named(rule) => stores.rules.resolve(rule, ports, stores.terms),
    }
}
