//! One rule table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::{PolicyDirection, PolicyPorts};

use super::super::FindingReason;
use super::super::classes::{ClassContent, NumberedPort};
use super::super::ports::{Ports, Union};
use super::super::rules::{PortName, Rule, Rules};
use super::admitted::Admitted;
use super::tier::Tier;
use super::{Row, Uses};
use crate::model::RuleAction;

/// What a table belongs to. Its id follows from it, so that a change of a rule, and one more policy with a
/// selector that others have, leave the id and all rows that they do not affect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The direction.
    pub direction: PolicyDirection,
    /// Numbers of the selectors of the policies, sorted.
    pub selectors: Box<[u32]>,
    /// Container ports of the pods whose names the policies use for their own ports, sorted.
    pub named: Box<[NumberedPort]>,
}

/// Rules of ClusterNetworkPolicies, in order, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierRules {
    /// Before NetworkPolicies.
    pub admin: Vec<(RuleAction, u32)>,
    /// After NetworkPolicies.
    pub baseline: Vec<(RuleAction, u32)>,
}

impl TierRules {
    /// All rules.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.admin.iter().chain(&self.baseline).map(|(_, rule)| *rule)
    }
}

/// The rules of a new table by their numbers, with one reference for each.
#[derive(Clone, Debug, Default)]
pub struct TableRules {
    /// Of NetworkPolicies. `None`: none isolates.
    pub own: Option<Vec<u32>>,
    /// Of ClusterNetworkPolicies.
    pub tiers: TierRules,
}

/// How the rules of a table change.
#[derive(Clone, Debug, Default)]
pub struct TableChange {
    /// Numbers of rules of NetworkPolicies that the table has once less.
    pub lost: Vec<u32>,
    /// Those that it has once more, with one reference for each.
    pub gained: Vec<u32>,
    /// Rules of ClusterNetworkPolicies, if they change.
    pub tiers: Option<TierChange>,
}

/// How the rules of ClusterNetworkPolicies change.
#[derive(Clone, Debug, Default)]
pub struct TierChange {
    /// All of them, with one reference for each.
    pub tiers: TierRules,
    /// The rules of the policies that changed, before and after, with one reference for each.
    pub rules: Vec<u32>,
}

/// Terms and port names with the number of rules that use them.
#[derive(Clone, Debug, Default)]
pub struct Users {
    pub terms: BTreeMap<u32, u32>,
    pub names: BTreeMap<PortName, u32>,
}

impl Users {
    /// A table has a rule once more.
    pub fn add(&mut self, rule: &Rule) {
        rule.terms().for_each(|term| *self.terms.entry(term).or_default() += 1);
        for name in &rule.named {
            *self.names.entry(name.clone()).or_default() += 1;
        }
    }

    /// A table has a rule once less.
    pub fn remove(&mut self, rule: &Rule) {
        rule.terms().for_each(|term| remove(&mut self.terms, &term));
        rule.named.iter().for_each(|name| remove(&mut self.names, name));
    }

    /// Those that are used.
    pub fn all(&self) -> Uses {
        (self.terms.keys().copied().collect(), self.names.keys().cloned().collect())
    }

    /// Those of some rules that are used.
    pub fn among<'a>(&self, rules: impl Iterator<Item = &'a Arc<Rule>>) -> Uses {
        let (mut terms, mut names) = uses(rules);
        terms.retain(|term| self.terms.contains_key(term));
        names.retain(|name| self.names.contains_key(name));
        (terms, names)
    }
}

/// The terms and port names of rules.
pub fn uses<'a>(rules: impl Iterator<Item = &'a Arc<Rule>>) -> Uses {
    let mut uses = Uses::default();
    for rule in rules {
        uses.0.extend(rule.terms());
        uses.1.extend(rule.named.iter().cloned());
    }
    uses
}

/// Removes one use.
fn remove<K: Ord>(uses: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = uses.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            uses.remove(key);
        }
    }
}

/// A table that pods use.
#[derive(Clone, Debug)]
pub struct Table {
    /// Number of its [`Identity`].
    pub identity: u32,
    pub id: u64,
    /// Numbers of the rules of ClusterNetworkPolicies.
    pub tiers: TierRules,
    pub admin: Tier,
    /// Whether NetworkPolicies isolate the pods.
    pub is_isolated: bool,
    /// Rules of NetworkPolicies by the terms that they have, `None` for those without peers, and how many times
    /// the table has each.
    own: BTreeMap<(Option<u32>, u32), u32>,
    /// What NetworkPolicies admit by term.
    pub by_term: BTreeMap<u32, Admitted>,
    /// What rules of NetworkPolicies without peers admit.
    pub any_peer: Admitted,
    pub baseline: Tier,
    /// All terms and port names.
    pub users: Users,
    /// What peers may that no term matches.
    pub otherwise_ports: Ports,
    pub otherwise: Row,
    /// By class: ports that differ from `otherwise`.
    pub rows: BTreeMap<u32, Row>,
    /// Why its pods are closed.
    pub closed: Option<FindingReason>,
}

impl Table {
    /// A table without rules and rows.
    pub fn new(identity: u32, id: u64) -> Table {
        Table {
            identity,
            id,
            tiers: TierRules::default(),
            admin: Tier::default(),
            is_isolated: false,
            own: BTreeMap::new(),
            by_term: BTreeMap::new(),
            any_peer: Admitted::default(),
            baseline: Tier::default(),
            users: Users::default(),
            otherwise_ports: Ports::default(),
            otherwise: (PolicyPorts::NONE, None),
            rows: BTreeMap::new(),
            closed: None,
        }
    }

    /// Adds a rule of a NetworkPolicy. [`Table::by_term`] and [`Table::any_peer`] stay.
    pub fn add_own(&mut self, number: u32, rule: &Rule) {
        for term in keys(rule) {
            *self.own.entry((term, number)).or_default() += 1;
        }
        self.users.add(rule);
    }

    /// Removes a rule of a NetworkPolicy, as [`Table::add_own`].
    pub fn remove_own(&mut self, number: u32, rule: &Rule) {
        for term in keys(rule) {
            remove(&mut self.own, &(term, number));
        }
        self.users.remove(rule);
    }

    /// What its rules of NetworkPolicies with a term, or without peers, admit; `None`: it has none.
    pub fn admitted(&self, term: Option<u32>, rules: &Rules) -> Option<Admitted> {
        let mut of_term = self.own.range((term, 0)..=(term, u32::MAX)).peekable();
        of_term.peek()?;
        Some(Admitted::of(of_term.map(|((_, rule), _)| &**rules.registry.get(*rule))))
    }

    /// Numbers of its rules, once for each reference to them that it has.
    pub fn rules(&self, rules: &Rules) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.tiers.iter().collect();
        for ((term, number), count) in &self.own {
            // A rule with several terms is in several places.
            let first = keys(rules.registry.get(*number)).next();
            let times = if first == Some(*term) { *count } else { 0 };
            numbers.extend((0..times).map(|_| *number));
        }
        numbers
    }

    /// The ports for a class.
    pub fn ports(&self, class: &ClassContent) -> Ports {
        let own = || match self.is_isolated {
            true => self.network_policy_ports(class),
            false => self.baseline.ports(class, Ports::all),
        };
        self.admin.ports(class, own)
    }

    /// The ports that NetworkPolicies admit.
    fn network_policy_ports(&self, class: &ClassContent) -> Ports {
        let mut union = Union::default();
        self.any_peer.add_to(&mut union, class);
        if class.terms.len() <= self.by_term.len() {
            let of_class = class.terms.iter().filter_map(|term| self.by_term.get(term));
            of_class.for_each(|admitted| admitted.add_to(&mut union, class));
        } else {
            let has = |term: &u32| class.terms.binary_search(term).is_ok();
            let of_class = self.by_term.iter().filter(|(term, _)| has(term));
            of_class.for_each(|(_, admitted)| admitted.add_to(&mut union, class));
        }
        union.finish()
    }

    /// Whether a rule does not admit what it matches: a peer that is not recognized is then closed.
    pub fn has_deny_or_pass(&self) -> bool {
        self.admin.has_deny_or_pass() || self.baseline.has_deny_or_pass()
    }

    /// Whether peers are not recognized that a rule must not admit.
    pub fn has_gap(&self, gaps: &Gaps) -> bool {
        [&self.admin, &self.baseline].iter().any(|tier| tier.has_gap(gaps))
    }

    /// Number of its rows in `POLICY_PEERS`.
    pub fn len(&self) -> usize {
        self.rows.len() + usize::from(self.has_deny_or_pass())
    }
}

/// Where a rule of a NetworkPolicy is in [`Table::own`].
fn keys(rule: &Rule) -> impl Iterator<Item = Option<u32>> {
    let without = rule.peers.is_none().then_some(None);
    without.into_iter().chain(rule.peers.iter().flatten().map(|term| Some(*term)))
}

/// Peers that the maps cannot distinguish from others, because they are full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Terms of addresses that match nothing.
    pub terms: BTreeSet<u32>,
    /// Whether a pod outside of all pod ranges is not distinguished from other addresses.
    pub pods: bool,
}
