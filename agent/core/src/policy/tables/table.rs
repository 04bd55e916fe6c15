//! One rule table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::FindingReason;
use super::super::classes::{ClassContent, NumberedPort};
use super::super::ports::{Ports, Union};
use super::super::rules::PortName;
use super::Row;
use super::admitted::Admitted;
use super::tier::Tier;
use crate::model::RuleAction;

/// What a table belongs to. Its id follows from it, so that a change of a rule leaves the id and all rows
/// that the rule does not affect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The direction.
    pub direction: PolicyDirection,
    /// Numbers of the policies, sorted.
    pub policies: Box<[u32]>,
    /// Container ports of the pods whose names the policies use for their own ports, sorted.
    pub named: Box<[NumberedPort]>,
}

/// What a table consists of: numbers of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableRules {
    /// Number of its [`Identity`].
    pub identity: u32,
    /// Before NetworkPolicies, in order.
    pub admin: Box<[(RuleAction, u32)]>,
    /// Of NetworkPolicies, sorted. `None`: none isolates.
    pub network_policies: Option<Box<[u32]>>,
    /// After NetworkPolicies, in order.
    pub baseline: Box<[(RuleAction, u32)]>,
}

impl TableRules {
    /// All rules, with repetitions.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone {
        let ordered = self.admin.iter().chain(&self.baseline).map(|(_, rule)| *rule);
        ordered.chain(self.network_policies.iter().flatten().copied())
    }
}

/// A table that pods use.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its rules.
    pub content: Arc<TableRules>,
    pub id: u64,
    pub admin: Tier,
    /// Whether NetworkPolicies isolate the pods.
    pub is_isolated: bool,
    /// What NetworkPolicies admit by term, sorted.
    pub by_term: Box<[(u32, Admitted)]>,
    /// What rules of NetworkPolicies without peers admit.
    pub any_peer: Admitted,
    pub baseline: Tier,
    /// All terms, sorted.
    pub terms: Box<[u32]>,
    pub names: BTreeSet<PortName>,
    /// What peers may that no term matches.
    pub otherwise_ports: Ports,
    pub otherwise: Row,
    /// By class: ports that differ from `otherwise`.
    pub rows: BTreeMap<u32, Row>,
    /// Why its pods are closed.
    pub closed: Option<FindingReason>,
}

impl Table {
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
            for term in &class.terms {
                if let Ok(at) = self.by_term.binary_search_by_key(term, |(term, _)| *term) {
                    self.by_term[at].1.add_to(&mut union, class);
                }
            }
        } else {
            for (_, admitted) in
                self.by_term.iter().filter(|(term, _)| class.terms.binary_search(term).is_ok())
            {
                admitted.add_to(&mut union, class);
            }
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

/// Peers that the maps cannot distinguish from others, because they are full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Terms of addresses that match nothing.
    pub terms: BTreeSet<u32>,
    /// Whether a pod outside of all pod ranges is not distinguished from other addresses.
    pub pods: bool,
}
