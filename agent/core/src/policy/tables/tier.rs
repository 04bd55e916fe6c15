//! Rules of ClusterNetworkPolicies: the first one that matches decides.
//!
//! ```text
//! undecided = all ports
//! each rule that matches:  Accept ─> accepted    Deny ─> dropped    Pass ─> next tier
//! each rule that may match: Accept ─> nothing    Deny ─> dropped    Pass ─> next tier too must admit it
//! the rest ─> next tier
//! ```
//! A rule may match a peer of [`super::super::term::Term::Unknown`]. What is admitted to such a peer is
//! what is admitted to it in every case.

use std::sync::Arc;

use super::super::classes::ClassContent;
use super::super::ports::{Ports, Range, Union};
use super::super::rules::{Rule, Rules};
use super::super::term::Terms;
use super::Gaps;
use super::admitted::add_named;
use crate::model::RuleAction;

/// The rules of a tier in order.
#[derive(Clone, Debug, Default)]
pub struct Tier {
    rules: Box<[Ordered]>,
    has_deny_or_pass: bool,
}

#[derive(Clone, Debug)]
struct Ordered {
    action: RuleAction,
    rule: Arc<Rule>,
    /// Whether a peer depends on what is known of pods.
    by_labels: bool,
    /// Whether it does not accept and matches pods.
    denies_pods: bool,
    /// Its terms that match addresses only, unless it accepts.
    address_terms_that_deny: Box<[u32]>,
}

/// Whether a rule matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    Maybe,
    No,
}

impl Tier {
    /// The rules with these numbers.
    pub fn new(rules: &[(RuleAction, u32)], known: &Rules, terms: &Terms) -> Tier {
        let ordered = |(action, rule): &(RuleAction, u32)| {
            let rule = Arc::clone(known.registry.get(*rule));
            let of_addresses = |term: &u32| terms.registry.get(*term).is_of_addresses();
            let address_terms_that_deny = match action {
                RuleAction::Accept => [].into(),
                RuleAction::Deny | RuleAction::Pass => rule.terms().filter(of_addresses).collect(),
            };
            let distinguishes = |term: &u32| terms.registry.get(*term).distinguishes_pods();
            let by_labels = rule.peers.iter().flatten().any(distinguishes);
            let of_pods = |term: &u32| !terms.registry.get(*term).is_of_addresses();
            let denies_pods = *action != RuleAction::Accept && rule.terms().any(|t| of_pods(&t));
            Ordered { action: *action, rule, by_labels, denies_pods, address_terms_that_deny }
        };
        let has_deny_or_pass = rules.iter().any(|(action, _)| *action != RuleAction::Accept);
        Tier { rules: rules.iter().map(ordered).collect(), has_deny_or_pass }
    }

    /// The ports for a class, given what the next tier admits.
    pub fn ports(&self, class: &ClassContent, next: impl FnOnce() -> Ports) -> Ports {
        if self.is_empty() {
            return next();
        }
        let mut undecided = Ports::all();
        let (mut accepted, mut conditional) = (Ports::default(), Ports::default());
        let mut passed = Ports::default();
        for ordered in &self.rules {
            let Ordered { action, rule, .. } = ordered;
            let matches = ordered.matches(class);
            if matches == Match::No || undecided.is_none() {
                continue;
            }
            let (sure, possible) = rule.ports_of(class);
            match action {
                RuleAction::Accept if matches == Match::Yes => {
                    accepted = accepted.or(&undecided.and(&sure));
                    undecided = undecided.minus(&sure);
                }
                RuleAction::Accept => {}
                RuleAction::Deny => undecided = undecided.minus(&possible),
                RuleAction::Pass if matches == Match::Yes => {
                    conditional = conditional.or(&undecided.and(&possible.minus(&sure)));
                    passed = passed.or(&undecided.and(&sure));
                    undecided = undecided.minus(&sure);
                }
                RuleAction::Pass => conditional = conditional.or(&undecided.and(&possible)),
            }
        }
        let left = passed.or(&undecided).or(&accepted.and(&conditional));
        let without = accepted.minus(&conditional);
        if left.is_none() { without } else { without.or(&left.and(&next())) }
    }

    /// Whether it has no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule does not admit what it matches.
    pub fn has_deny_or_pass(&self) -> bool {
        self.has_deny_or_pass
    }

    /// Whether peers are not recognized that a rule must not admit.
    pub fn has_gap(&self, gaps: &Gaps) -> bool {
        self.rules.iter().any(|Ordered { denies_pods, address_terms_that_deny, .. }| {
            gaps.pods && *denies_pods
                || address_terms_that_deny.iter().any(|term| gaps.terms.contains(term))
        })
    }
}

impl Ordered {
    fn matches(&self, class: &ClassContent) -> Match {
        let has = |term: &u32| class.terms.binary_search(term).is_ok();
        match &self.rule.peers {
            None => Match::Yes,
            Some(peers) if peers.iter().any(has) => Match::Yes,
            Some(_) if self.by_labels && self.rule.unknown.as_ref().is_some_and(has) => {
                Match::Maybe
            }
            Some(_) => Match::No,
        }
    }
}

impl Rule {
    /// The ports that the rule has for a class, and those that it may have.
    fn ports_of(&self, class: &ClassContent) -> (Ports, Ports) {
        if self.named.is_empty() {
            return (self.ports.clone(), self.ports.clone());
        }
        let mut sure = Union::default();
        sure.add(&self.ports);
        add_named(&mut sure, &self.named, class);
        let sure = sure.finish();
        let is_unknown = |term: u32| class.terms.binary_search(&term).is_ok();
        if !self.unknown.is_some_and(is_unknown) {
            return (sure.clone(), sure);
        }
        let mut possible = Union::default();
        possible.add(&self.ports);
        for (protocol, _) in &self.named {
            possible.add_range(Range::whole(protocol.number()));
        }
        (sure, possible.finish())
    }
}
