//! Rules of policies in normal form: equal rules of any policies are one.

use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::classes::NumberedPort;
use super::ports::{Ports, Range, Union};
use super::registry::{Registry, content_id};
use super::term::{Scope, Term, Terms};
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, NetworkPolicy, PolicyPort, PolicyRule, PortSpec, Protocol,
    RuleAction, Tier,
};

/// Name of container ports, with their protocol.
pub type PortName = (Protocol, Arc<str>);

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Terms, sorted, any of which is enough. `None`: any peer.
    pub peers: Option<Box<[u32]>>,
    /// [`Term::Unknown`], in rules that do not admit what they match, and whose terms or port names
    /// depend on what is known of pods: what this term matches may be matched by the rule.
    pub unknown: Option<u32>,
    /// Ports that are the same for every pod.
    pub ports: Ports,
    /// Ports by their names, sorted. Egress: the names are those of the destination. Ingress: they are
    /// replaced by the numbers of the pod ([`Rules::resolve`]).
    pub named: Box<[PortName]>,
}

impl Rule {
    /// All its terms.
    pub fn terms(&self) -> impl Iterator<Item = u32> {
        self.peers.iter().flatten().copied().chain(self.unknown)
    }
}

/// A rule of a policy.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// What happens to what it matches; NetworkPolicies accept.
    pub action: RuleAction,
    /// What it matches.
    pub matches: Matches,
}

/// What a rule of a policy matches.
#[derive(Clone, Debug)]
pub enum Matches {
    /// The same for every pod.
    Shared(u32),
    /// Ingress with port names.
    Named(Rule),
}

/// When a policy applies, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Before NetworkPolicies, by priority and name.
    Admin(u16, Arc<str>),
    /// A NetworkPolicy.
    NetworkPolicy,
    /// After NetworkPolicies, by priority and name.
    Baseline(u16, Arc<str>),
}

/// A policy.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    /// When it applies.
    pub order: Order,
    /// The pods that it applies to, as [`Term::Pods`].
    pub subject: Term,
    /// Whether a rule for ingress names ports, also one that matches nothing.
    pub has_port_names: bool,
    /// Rules by [`PolicyDirection`]; `None`: the policy does not affect the direction.
    pub ends: [Option<Vec<CompiledRule>>; 2],
}

impl CompiledPolicy {
    /// The names of the container ports of the selected pods that its rules have, with repetitions.
    pub fn names(&self) -> impl Iterator<Item = &PortName> {
        let rules = self.ends[PolicyDirection::Ingress as usize].iter().flatten();
        rules.flat_map(|rule| match &rule.matches {
            Matches::Named(rule) => &*rule.named,
            Matches::Shared(_) => &[],
        })
    }
}

/// The rules in use.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The rules. A rule has a reference to each of its terms.
    pub registry: Registry<Rule>,
}

impl Rules {
    /// Compiles a NetworkPolicy.
    pub fn compile(&mut self, policy: &NetworkPolicy, terms: &mut Terms) -> CompiledPolicy {
        let mut end = |rules: &Option<Box<[PolicyRule]>>, direction| {
            let compile = |rule| {
                let of = RuleOf { action: RuleAction::Accept, direction };
                self.compile_rule(rule, &policy.name.namespace, of, terms)
            };
            rules.as_ref().map(|rules| rules.iter().filter_map(compile).collect())
        };
        let ends = [
            end(&policy.egress, PolicyDirection::Egress),
            end(&policy.ingress, PolicyDirection::Ingress),
        ];
        CompiledPolicy {
            order: Order::NetworkPolicy,
            subject: Term::Pods {
                scope: Scope::Namespace(Arc::clone(&policy.name.namespace)),
                pods: policy.pod_selector.clone(),
            },
            has_port_names: policy.ingress.iter().flatten().any(has_port_names),
            ends,
        }
    }

    /// Compiles a ClusterNetworkPolicy.
    pub fn compile_cluster(
        &mut self,
        policy: &ClusterNetworkPolicy,
        terms: &mut Terms,
    ) -> CompiledPolicy {
        let mut end = |rules: &[ClusterRule], direction| {
            let compile = |rule: &ClusterRule| {
                if rule.is_valid() {
                    let of = RuleOf { action: rule.action, direction };
                    return self.compile_rule(&rule.matches, &Arc::default(), of, terms);
                }
                let everything =
                    Rule { peers: None, unknown: None, ports: Ports::all(), named: [].into() };
                (rule.action != RuleAction::Accept).then(|| CompiledRule {
                    action: RuleAction::Deny,
                    matches: Matches::Shared(self.intern(everything, terms)),
                })
            };
            (!rules.is_empty()).then(|| rules.iter().filter_map(compile).collect())
        };
        let ends = [
            end(&policy.egress, PolicyDirection::Egress),
            end(&policy.ingress, PolicyDirection::Ingress),
        ];
        let name = Arc::clone(&policy.name);
        CompiledPolicy {
            order: match policy.tier {
                Tier::Admin => Order::Admin(policy.priority, name),
                Tier::Baseline => Order::Baseline(policy.priority, name),
            },
            subject: Term::Pods {
                scope: Scope::Selected(policy.subject.namespaces.clone()),
                pods: policy.subject.pods.clone(),
            },
            has_port_names: policy.ingress.iter().any(|rule| has_port_names(&rule.matches)),
            ends,
        }
    }

    /// Removes the references of a policy.
    pub fn forget(&mut self, policy: CompiledPolicy, terms: &mut Terms) {
        for rule in policy.ends.into_iter().flatten().flatten() {
            match rule.matches {
                Matches::Shared(rule) => self.release(rule, terms),
                Matches::Named(rule) => release_terms(&rule, terms),
            }
        }
    }

    /// A rule with the numbers that its port names have on a pod; `None` if the pod has none of them.
    /// The caller has one reference.
    pub fn resolve(
        &mut self,
        rule: &Rule,
        ports: &[NumberedPort],
        terms: &mut Terms,
    ) -> Option<u32> {
        let mut union = Union::default();
        union.add(&rule.ports);
        for (protocol, name) in &rule.named {
            let named = ports.iter().filter(|(p, n, _)| p == protocol && n == name);
            named.for_each(|(.., port)| union.add_range(one_port(*protocol, *port)));
        }
        let ports = union.finish();
        if ports.is_none() {
            return None;
        }
        rule.terms().for_each(|term| terms.registry.retain(term));
        Some(self.intern(Rule { ports, named: [].into(), ..rule.clone() }, terms))
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
        of: RuleOf,
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
        let is_egress = of.direction == PolicyDirection::Egress;
        let by_labels = |term: &u32| terms.registry.get(*term).distinguishes_pods();
        let depends_on_pods =
            is_egress && !named.is_empty() || peers.iter().flatten().any(by_labels);
        let unknown = (of.action != RuleAction::Accept && depends_on_pods)
            .then(|| terms.intern(Term::Unknown));
        let rule = Rule { peers, unknown, ports, named };
        let matches = if !is_egress && !rule.named.is_empty() {
            Matches::Named(rule)
        } else {
            Matches::Shared(self.intern(rule, terms))
        };
        Some(CompiledRule { action: of.action, matches })
    }

    /// The number of a rule, with one more reference. Takes over the references to its terms.
    fn intern(&mut self, rule: Rule, terms: &mut Terms) -> u32 {
        let of_rule: Vec<u32> = rule.terms().collect();
        let (number, new) = self.registry.intern(rule, |rule| {
            let ids = |peers: &[u32]| {
                let mut ids: Vec<u64> = peers.iter().map(|t| terms.registry.id(*t)).collect();
                ids.sort_unstable();
                ids
            };
            let peers = rule.peers.as_deref().map(ids);
            content_id((peers, rule.unknown.is_some(), &rule.ports, &rule.named))
        });
        if !new {
            of_rule.into_iter().for_each(|term| {
                terms.registry.release(term);
            });
        }
        number
    }
}

fn has_port_names(rule: &PolicyRule) -> bool {
    rule.ports.iter().any(|port| matches!(port.ports, PortSpec::Name(_)))
}

/// What a rule belongs to.
#[derive(Clone, Copy)]
struct RuleOf {
    action: RuleAction,
    direction: PolicyDirection,
}

fn release_terms(rule: &Rule, terms: &mut Terms) {
    rule.terms().for_each(|term| {
        terms.registry.release(term);
    });
}

/// One port.
pub fn one_port(protocol: Protocol, port: u16) -> Range {
    Range { proto: protocol.number(), first: port, last: port }
}

/// The ports of a rule by numbers, and by names.
fn ports(ports: &[PolicyPort]) -> (Ports, Box<[PortName]>) {
    if ports.is_empty() {
        return (Ports::all(), [].into());
    }
    let (mut union, mut named) = (Union::default(), Vec::new());
    for PolicyPort { protocol, ports } in ports {
        let proto = protocol.number();
        match ports {
            PortSpec::All => union.add_range(Range::whole(proto)),
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
