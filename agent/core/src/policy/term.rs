//! Terms: what rules say about peers. Each is one `podSelector` with its `namespaceSelector`, one
//! `ipBlock`, or one selector of Nodes.
//!
//! A term is active if a table of this node uses it. Active terms are found by a label that they
//! require, so that a pod is compared with few of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::registry::{Registry, content_id};
use super::selection::selects_namespace;
use super::selectors::Selectors;
use crate::index::Index;
use crate::model::{ContainerPort, IpBlock, LabelSelector, Labels, Operator, PolicyPeer};
use crate::visits::visit;

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The one of the policy.
    Namespace(Arc<str>),
    /// Those with these labels.
    Selected(LabelSelector),
}

/// Peers that a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// Pods.
    Pods {
        /// Their namespaces.
        scope: Scope,
        /// Their labels.
        pods: LabelSelector,
    },
    /// Addresses.
    Block(IpBlock),
    /// The addresses of Nodes.
    Nodes(LabelSelector),
    /// Pods of which not everything is known, and which rules that deny may therefore select: an address
    /// in a pod range that no known pod has, or that several pods have, and pods whose namespace is not
    /// known.
    Unknown,
}

/// What pods must have in common so that no term distinguishes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Named container ports.
    pub ports: Arc<[ContainerPort]>,
}

impl Term {
    /// The term of a peer in a policy of this namespace; `None` if the peer is not valid.
    pub fn new(peer: &PolicyPeer, namespace: &Arc<str>) -> Option<Term> {
        match peer {
            PolicyPeer::Pods { namespaces, pods } => {
                let scope = match namespaces {
                    Some(selector) => Scope::Selected(selector.clone()),
                    None => Scope::Namespace(Arc::clone(namespace)),
                };
                Some(Term::Pods { scope, pods: pods.clone() })
            }
            PolicyPeer::Block(block) => {
                let cidr = block.cidr.trunc();
                let except = block.except.iter().map(|net| net.trunc());
                let mut except: Vec<_> = if except.clone().any(|net| net.contains(&cidr)) {
                    vec![cidr]
                } else {
                    except.filter(|net| cidr.contains(net)).collect()
                };
                except.sort_unstable();
                except.dedup();
                Some(Term::Block(IpBlock { cidr, except: except.into() }))
            }
            PolicyPeer::Nodes(selector) => Some(Term::Nodes(selector.clone())),
            PolicyPeer::Invalid(_) => None,
        }
    }

    /// Whether it matches every pod of every namespace, also those that are not known.
    pub fn is_every_pod(&self) -> bool {
        matches!(self, Term::Pods { scope: Scope::Selected(namespaces), pods }
            if namespaces.is_empty() && pods.is_empty())
    }

    /// Whether it matches pods by what is known of them, but not every pod.
    pub fn distinguishes_pods(&self) -> bool {
        matches!(self, Term::Pods { .. }) && !self.is_every_pod()
    }

    /// Whether it matches addresses only.
    pub fn is_of_addresses(&self) -> bool {
        matches!(self, Term::Block(_) | Term::Nodes(_))
    }

    /// Whether it matches an address in a pod range that no known pod has.
    pub fn is_of_unknown_pods(&self) -> bool {
        *self == Term::Unknown || self.is_every_pod()
    }

    /// Whether it selects a pod by its labels. An unknown namespace has no labels that are known.
    pub fn selects(&self, index: &Index, namespace: &str, labels: &Labels) -> bool {
        visit();
        let (scope, pods) = match self {
            Term::Pods { scope, pods } => (scope, pods),
            Term::Unknown => return index.namespace(namespace).is_none(),
            Term::Block(_) | Term::Nodes(_) => return false,
        };
        let in_scope = match scope {
            Scope::Namespace(own) => **own == *namespace,
            Scope::Selected(selector) => selects_namespace(index, selector, namespace),
        };
        in_scope && pods.matches(|key| labels.get(key))
    }

    /// A label that every selected pod has, with its possible values.
    pub fn required_label(&self) -> Option<(&Arc<str>, &[Arc<str>])> {
        let Term::Pods { pods, .. } = self else { return None };
        required_label(pods)
    }
}

/// A label that a selector requires, with its possible values.
pub fn required_label(selector: &LabelSelector) -> Option<(&Arc<str>, &[Arc<str>])> {
    selector.requirements().iter().find_map(|r| match &r.operator {
        Operator::In(values) => Some((&r.key, &**values)),
        _ => None,
    })
}

/// All terms of the policies, and which of them are active.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The terms.
    pub registry: Registry<Term>,
    /// Number of tables that use each term.
    tables: HashMap<u32, u32>,
    selectors: Selectors,
}

impl Terms {
    /// The number of a term, with one more reference.
    pub fn intern(&mut self, term: Term) -> u32 {
        self.registry.intern(term, |term| content_id(term)).0
    }

    /// The active terms.
    pub fn active(&self) -> impl Iterator<Item = u32> {
        self.tables.keys().copied().inspect(|_| visit())
    }

    /// A table uses a term; returns whether it was not active.
    pub fn activate(&mut self, term: u32) -> bool {
        let tables = self.tables.entry(term).or_default();
        *tables += 1;
        let new = *tables == 1;
        if new {
            self.selectors.insert(self.registry.get(term), term);
        }
        new
    }

    /// A table does not use a term any more; returns whether none does.
    pub fn deactivate(&mut self, term: u32) -> bool {
        let Some(tables) = self.tables.get_mut(&term) else { return false };
        *tables -= 1;
        if *tables > 0 {
            return false;
        }
        self.tables.remove(&term);
        self.selectors.remove(self.registry.get(term), term);
        true
    }

    /// The active selectors that select pods of a group, sorted.
    pub fn selecting(&self, index: &Index, group: &GroupKey) -> Vec<u32> {
        let mut found = self.selectors.candidates(index, &group.namespace, &group.labels);
        found.retain(|term| {
            self.registry.get(*term).selects(index, &group.namespace, &group.labels)
        });
        found.sort_unstable();
        found
    }
}
