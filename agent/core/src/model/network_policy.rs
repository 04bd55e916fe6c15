//! NetworkPolicies.
//!
//! A part that is not valid matches nothing: leaving it out could turn a list with one entry into an
//! empty list, which matches everything.

use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::PolicyDirection;

use super::{ObjectName, Port, Protocol, Uid};

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// The pods of its namespace that it applies to.
    pub pod_selector: LabelSelector,
    /// Rules for what the pods receive. `None`: `policyTypes`, or its default, lacks the direction, and
    /// the policy does not isolate it. Empty: nothing passes.
    pub ingress: Option<Box<[PolicyRule]>>,
    /// Rules for what the pods send, as `ingress`.
    pub egress: Option<Box<[PolicyRule]>>,
    /// Number of rules for a direction that `policyTypes` lacks, by [`PolicyDirection`]: they have no effect.
    pub unused_rules: [usize; 2],
    /// UID; `None` in a manifest.
    pub uid: Option<Uid>,
}

impl NetworkPolicy {
    /// Its rules for a direction; `None`: the policy does not isolate it.
    pub fn rules(&self, direction: PolicyDirection) -> Option<&[PolicyRule]> {
        match direction {
            PolicyDirection::Egress => self.egress.as_deref(),
            PolicyDirection::Ingress => self.ingress.as_deref(),
        }
    }
}

/// A rule: it allows what both lists match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// `from` or `to`. Empty: any peer.
    pub peers: Box<[PolicyPeer]>,
    /// Empty: every protocol and port.
    pub ports: Box<[PolicyPort]>,
}

/// Peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// Their namespaces; `None`: the namespace of the policy.
        namespaces: Option<LabelSelector>,
        /// `podSelector`; all pods if it is absent.
        pods: LabelSelector,
    },
    /// Addresses.
    Block(IpBlock),
    /// All addresses of the Nodes with these labels. Only in ClusterNetworkPolicies.
    Nodes(LabelSelector),
    /// Nothing; the text says what is not valid.
    Invalid(Arc<str>),
}

/// An `ipBlock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// Range of addresses; host bits have no meaning.
    pub cidr: IpNet,
    /// Ranges that the block does not contain.
    pub except: Box<[IpNet]>,
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Ports of this protocol.
    pub ports: PortSpec,
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// Every port.
    All,
    /// One port.
    Number(Port),
    /// `port` to `endPort`, both included; none if `endPort` is lower.
    Range(Port, Port),
    /// Container ports with this name.
    Name(Arc<str>),
    /// Nothing; the text says what is not valid.
    Invalid(Arc<str>),
}

/// A label selector: all requirements. Without any, it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector(Box<[Requirement]>);

/// A requirement of a label selector. `matchLabels` are requirements with the operator In.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Key of the label.
    pub key: Arc<str>,
    /// What its value must be.
    pub operator: Operator,
}

/// Operator of a requirement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label has one of these values. No value, which is not valid in the API: never.
    In(Box<[Arc<str>]>),
    /// The label has none of these values, or does not exist.
    NotIn(Box<[Arc<str>]>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

impl Operator {
    /// Whether a label with this value, or its absence, is accepted.
    pub fn accepts(&self, value: Option<&str>) -> bool {
        let among = |values: &[Arc<str>]| value.is_some_and(|v| values.iter().any(|w| **w == *v));
        match self {
            Operator::In(values) => among(values),
            Operator::NotIn(values) => !among(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl LabelSelector {
    /// Whether labels match; `label` returns the value of a label.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| r.operator.accepts(label(&r.key)))
    }

    /// Whether it has no requirement: it matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements, in order and each once.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }
}

impl FromIterator<Requirement> for LabelSelector {
    /// Equal selectors are equal values: requirements and values are sorted, duplicates removed.
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> LabelSelector {
        let sorted = |values: Box<[Arc<str>]>| {
            let mut values = values.into_vec();
            values.sort_unstable();
            values.dedup();
            values.into_boxed_slice()
        };
        let normal = |Requirement { key, operator }| {
            let operator = match operator {
                Operator::In(values) => Operator::In(sorted(values)),
                Operator::NotIn(values) => Operator::NotIn(sorted(values)),
                Operator::Exists | Operator::DoesNotExist => operator,
            };
            Requirement { key, operator }
        };
        let mut requirements: Vec<Requirement> = requirements.into_iter().map(normal).collect();
        requirements.sort_unstable();
        requirements.dedup();
        LabelSelector(requirements.into())
    }
}

impl Requirement {
    /// A label with this value, as in `matchLabels`.
    pub fn equals(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Requirement {
        Requirement { key: key.into(), operator: Operator::In([value.into()].into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    #[test]
    fn operators_accept_values_and_absence_as_the_api_defines() {
        let values: Box<[Arc<str>]> = ["a".into(), "b".into()].into();
        let none: Box<[Arc<str>]> = [].into();
        for (operator, absent, a, other) in [
            (Operator::In(values.clone()), false, true, false),
            (Operator::NotIn(values), true, false, true),
            (Operator::Exists, false, true, true),
            (Operator::DoesNotExist, true, false, false),
            (Operator::In(none.clone()), false, false, false),
            (Operator::NotIn(none), true, true, true),
        ] {
            let accepted = [None, Some("a"), Some("c")].map(|value| operator.accepts(value));
            assert_eq!(accepted, [absent, a, other], "{operator:?}");
        }
    }

    #[test]
    fn selector_requires_all_and_equal_selectors_are_equal() {
        let exists = Requirement { key: "tier".into(), operator: Operator::Exists };
        let both: LabelSelector =
            [exists.clone(), Requirement::equals("app", "web")].into_iter().collect();
        let same: LabelSelector =
            [Requirement::equals("app", "web"), exists.clone(), exists].into_iter().collect();
        assert_eq!(both, same);
        let matches = |labels: &[(&'static str, &'static str)]| {
            let labels: Labels = labels.iter().copied().collect();
            both.matches(|key| labels.get(key))
        };
        assert!(matches(&[("app", "web"), ("tier", "")]));
        assert!(!matches(&[("app", "web")]) && !matches(&[("tier", "x")]));
        assert!(LabelSelector::default().matches(|_| None));
    }
}
