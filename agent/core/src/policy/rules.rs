//! Rules of policies in normal form: equal rules of any policies are one.

use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::ports::{Ports, Range, Union};
use super::registry::{Registry, content_id};
use super::term::{Term, Terms};
use crate::model::{
    ContainerPort, LabelSelector, NetworkPolicy, PolicyPort, PolicyRule, PortSpec, Protocol,
};

/// Name of container ports, with their protocol.
pub type PortName = (Protocol, Arc<str>);

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Terms, sorted, any of which is enough. `None`: any peer.
    pub peers: Option<Box<[u32]>>,
    /// Ports that are the same for every pod.
    pub ports: Ports,
    /// Ports by their names, sorted. Egress: the names are those of the destination. Ingress: they are
    /// replaced by the numbers of the pod ([`Rules::resolve`]).
    pub named: Box<[PortName]>,
}

/// A rule of a policy.
#[derive(Clone, Debug)]
pub enum CompiledRule {
    /// The same for every pod.
    Shared(u32),
    /// Ingress with port names.
    Named(Rule),
}

/// A policy.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    /// The pods that it applies to.
    pub selector: LabelSelector,
    /// Rules by [`PolicyDirection`]; `None`: the direction is not isolated.
    pub ends: [Option<Vec<CompiledRule>>; 2],
}

impl CompiledPolicy {
    /// Whether a rule depends on the names of the container ports of the pod.
    pub fn has_names(&self) -> bool {
        self.ends.iter().flatten().flatten().any(|rule| matches!(rule, CompiledRule::Named(_)))
    }
}

/// The rules in use.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The rules. A rule has a reference to each of its terms.
    pub registry: Registry<Rule>,
}

impl Rules {
    /// Compiles a policy.
    pub fn compile(&mut self, policy: &NetworkPolicy, terms: &mut Terms) -> CompiledPolicy {
        let mut end = |rules: &Option<Box<[PolicyRule]>>, direction| {
            let compile = |rule| self.compile_rule(rule, &policy.name.namespace, direction, terms);
            rules.as_ref().map(|rules| rules.iter().filter_map(compile).collect())
        };
        let ends = [
            end(&policy.egress, PolicyDirection::Egress),
            end(&policy.ingress, PolicyDirection::Ingress),
        ];
        CompiledPolicy { selector: policy.pod_selector.clone(), ends }
    }

    /// Removes the references of a policy.
    pub fn forget(&mut self, policy: CompiledPolicy, terms: &mut Terms) {
        for rule in policy.ends.into_iter().flatten().flatten() {
            match rule {
                CompiledRule::Shared(rule) => self.release(rule, terms),
                CompiledRule::Named(rule) => release_terms(&rule, terms),
            }
        }
    }

    /// A rule with the numbers that its port names have on a pod; `None` if the pod has none of them.
    /// The caller has one reference.
    pub fn resolve(
        &mut self,
        rule: &Rule,
        ports: &[ContainerPort],
        terms: &mut Terms,
    ) -> Option<u32> {
        let mut union = Union::default();
        union.add(&rule.ports);
        for (protocol, name) in &rule.named {
            let named = ports.iter().filter(|p| p.protocol == *protocol && p.name == *name);
            named.for_each(|p| union.add_range(one_port(*protocol, p.port.get())));
        }
        let ports = union.finish();
        if ports.is_none() {
            return None;
        }
        for term in rule.peers.iter().flatten() {
            terms.registry.retain(*term);
        }
        let peers = rule.peers.clone();
        Some(self.intern(Rule { peers, ports, named: [].into() }, terms))
    }

    /// Removes a reference to a rule.
    pub fn release(&mut self, rule: u32, terms: &mut Terms) {
        if let Some(rule) = self.registry.release(rule) {
            release_terms(&rule, terms);
        }
    }

    /// `None` for a rule that matches nothing.
    fn compile_rule(
        &mut self,
        rule: &PolicyRule,
        namespace: &Arc<str>,
        direction: PolicyDirection,
        terms: &mut Terms,
    ) -> Option<CompiledRule> {
        let (ports, named) = ports(&rule.ports);
        if ports.is_none() && named.is_empty() {
            return None;
        }
        let peers = if rule.peers.is_empty() {
            None
        } else {
            let valid = rule.peers.iter().filter_map(|peer| Term::new(peer, namespace));
            let mut peers: Vec<u32> = valid.map(|term| terms.intern(term)).collect();
            peers.sort_unstable();
            peers.dedup_by(|later, first| {
                let same = later == first;
                if same {
                    terms.registry.release(*later);
                }
                same
            });
            if peers.is_empty() {
                return None;
            }
            Some(peers.into())
        };
        let rule = Rule { peers, ports, named };
        if direction == PolicyDirection::Ingress && !rule.named.is_empty() {
            return Some(CompiledRule::Named(rule));
        }
        Some(CompiledRule::Shared(self.intern(rule, terms)))
    }

    /// The number of a rule, with one more reference. Takes over the references to its terms.
    fn intern(&mut self, rule: Rule, terms: &mut Terms) -> u32 {
        let peers = rule.peers.clone();
        let (number, new) = self.registry.intern(rule, |rule| {
            let ids = |peers: &[u32]| {
                let mut ids: Vec<u64> = peers.iter().map(|t| terms.registry.id(*t)).collect();
                ids.sort_unstable();
                ids
            };
            content_id((rule.peers.as_deref().map(ids), &rule.ports, &rule.named))
        });
        if !new {
            for term in peers.iter().flatten() {
                terms.registry.release(*term);
            }
        }
        number
    }
}

fn release_terms(rule: &Rule, terms: &mut Terms) {
    for term in rule.peers.iter().flatten() {
        terms.registry.release(*term);
    }
}

/// One port.
pub fn one_port(protocol: Protocol, port: u16) -> Range {
    Range { proto: protocol.number(), first: port, last: port }
}

/// The ports of a rule by numbers, and by names.
fn ports(ports: &[PolicyPort]) -> (Ports, Box<[PortName]>) {
    if ports.is_empty() {
        return (Ports::All, [].into());
    }
    let (mut union, mut named) = (Union::default(), Vec::new());
    for PolicyPort { protocol, ports } in ports {
        let proto = protocol.number();
        match ports {
            PortSpec::All => union.add_range(Range { proto, first: 0, last: u16::MAX }),
            PortSpec::Number(port) => union.add_range(one_port(*protocol, port.get())),
            PortSpec::Range(first, last) if first <= last => {
                union.add_range(Range { proto, first: first.get(), last: last.get() });
            }
            PortSpec::Name(name) => named.push((*protocol, Arc::clone(name))),
            PortSpec::Range(..) | PortSpec::Invalid(_) => {}
        }
    }
    named.sort_unstable();
    named.dedup();
    (union.finish(), named.into())
}
