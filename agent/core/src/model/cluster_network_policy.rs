//! ClusterNetworkPolicies.

use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::{LabelSelector, ObjectName, PolicyPeer, PolicyRule, PortSpec, Uid};

/// A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Name.
    pub name: Arc<str>,
    /// Before or after NetworkPolicies.
    pub tier: Tier,
    /// 0 to 1000; the lowest one of a tier is first. Policies of equal priority are in the order of
    /// their names.
    pub priority: u16,
    /// Pods that it applies to; never those of the host network.
    pub subject: Subject,
    /// Rules for what the pods receive, in order. Empty: the policy does not affect it.
    pub ingress: Box<[ClusterRule]>,
    /// Rules for what the pods send, as `ingress`.
    pub egress: Box<[ClusterRule]>,
    /// UID; `None` in a manifest.
    pub uid: Option<Uid>,
}

/// Order of a policy relative to NetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before NetworkPolicies.
    #[default]
    Admin,
    /// After NetworkPolicies, for pods that they do not isolate.
    Baseline,
}

/// Pods of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Their namespaces.
    pub namespaces: LabelSelector,
    /// Their labels.
    pub pods: LabelSelector,
    /// What of the subject is not valid. It then selects every pod, and the rules are changed so that
    /// they admit nothing ([`ClusterRule::invalid`]).
    pub invalid: Option<Arc<str>>,
}

/// A rule: the first one of a tier that matches a flow decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// `name`, or empty.
    pub name: Arc<str>,
    /// What happens.
    pub action: RuleAction,
    /// What it matches. Peers are [`super::PolicyPeer::Pods`] with namespaces,
    /// [`super::PolicyPeer::Block`] without exceptions and [`super::PolicyPeer::Nodes`], at least one
    /// unless the rule is not valid. A port without protocol, which has a name, is one port of each
    /// protocol.
    pub matches: PolicyRule,
    /// What of the rule is not valid: a rule with [`RuleAction::Accept`] then matches nothing, every
    /// other one denies everything.
    pub invalid: Option<Arc<str>>,
}

impl ClusterRule {
    /// Whether everything of it is understood.
    pub fn is_valid(&self) -> bool {
        let PolicyRule { peers, ports } = &self.matches;
        self.invalid.is_none()
            && !peers.is_empty()
            && !peers.iter().any(|peer| matches!(peer, PolicyPeer::Invalid(_)))
            && !ports.iter().any(|port| matches!(port.ports, PortSpec::Invalid(_)))
    }
}

impl ClusterNetworkPolicy {
    /// Its name as that of any object.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::cluster(Arc::clone(&self.name))
    }

    /// Its rules for a direction.
    pub fn rules(&self, direction: PolicyDirection) -> &[ClusterRule] {
        match direction {
            PolicyDirection::Egress => &self.egress,
            PolicyDirection::Ingress => &self.ingress,
        }
    }

    /// Whether it has rules: without any, it has no effect.
    pub fn has_rules(&self) -> bool {
        !self.ingress.is_empty() || !self.egress.is_empty()
    }
}

/// `action` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// The flow passes.
    Accept,
    /// The flow is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}
