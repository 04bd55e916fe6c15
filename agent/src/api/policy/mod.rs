//! NetworkPolicies, ClusterNetworkPolicies and what they mean for a pod, as rows of a response.

mod any;
mod explain;
mod view;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_abi::PolicyDirection;
use sluice_core::model::{self, ObjectName, RuleAction};

pub use self::any::AnyPolicy;
pub use self::explain::{Translation, full_name, verdict};
pub use self::view::PolicyView;

/// Conditions on a [`PolicyRow`]; an absent one accepts every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyFilter {
    /// Part of `namespace/name`, or of the name of a ClusterNetworkPolicy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `namespace/name` of the one policy of which everything is shown, or the name of a
    /// ClusterNetworkPolicy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `namespace/name` of a pod that the policies select.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// A pod, and one side of a flow if a verdict is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodQuery {
    /// `namespace/name`.
    pub pod: String,
    /// The flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowQuery>,
}

/// A flow of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowQuery {
    /// Whether the pod opens or receives the flow.
    pub direction: Direction,
    /// The other end: the destination, before or after translation, or the original client.
    pub peer: FlowPeer,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, before or after translation.
    pub port: u16,
}

/// The other end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowPeer {
    /// An address.
    Address(IpAddr),
    /// `namespace/name` of a pod.
    Pod(String),
}

/// A flow, as policies judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowEnds {
    /// Source before translation.
    pub client: IpAddr,
    /// Destination after translation.
    pub server: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port after translation.
    pub port: u16,
}

/// Direction of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// What the pod receives.
    Ingress,
    /// What the pod sends.
    Egress,
}

impl Direction {
    /// That of the other end of a flow.
    pub const fn opposite(self) -> Direction {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }
}

/// Order of a policy: the rules of one tier are judged after those of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tier {
    /// ClusterNetworkPolicies before NetworkPolicies.
    Admin,
    /// NetworkPolicies.
    #[default]
    NetworkPolicy,
    /// ClusterNetworkPolicies for pods that no NetworkPolicy isolates.
    Baseline,
}

/// What a rule of a ClusterNetworkPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// The flow passes.
    Accept,
    /// The flow is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}

/// A NetworkPolicy or a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// `namespace/name`; the name of a ClusterNetworkPolicy.
    pub policy: String,
    /// Its tier.
    #[serde(default)]
    pub tier: Tier,
    /// Priority of a ClusterNetworkPolicy in its tier; the lowest is first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// Selector of its pods; empty: all of the namespace. That of a ClusterNetworkPolicy has namespaces.
    pub pod_selector: String,
    /// Directions that a NetworkPolicy isolates, or that a ClusterNetworkPolicy has rules for.
    pub directions: Vec<Direction>,
    /// Pods of this node that it selects.
    pub local_pods: usize,
    /// Pods of the cluster that it selects; of a single policy only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// Number of rules.
    pub rule_count: usize,
    /// Its rules; of a single policy only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRow>,
    /// What cannot work as written.
    pub problems: Vec<String>,
    /// What may not be as intended; of a single policy only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRow {
    /// `namespace/name` of the policy; the name of a ClusterNetworkPolicy.
    pub policy: String,
    /// Direction.
    pub direction: Direction,
    /// Position in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// Name of a rule of a ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What a rule of a ClusterNetworkPolicy does; one of a NetworkPolicy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// What of it is not valid: with [`Action::Accept`] it matches nothing, otherwise it denies everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    /// Ports, empty: all.
    pub ports: Vec<String>,
    /// Peers, empty: all.
    pub peers: Vec<PeerRow>,
}

/// Peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Selectors or block, as text.
    pub peer: String,
    /// Pods that the selectors match; absent for addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// Nodes that the selector matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<usize>,
    /// Whether its addresses do not fit into the map of this node, so that it matches nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub does_not_fit: bool,
}

/// What policies mean for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPolicyRow {
    /// `namespace/name`.
    pub pod: String,
    /// Whether a Pod of this name is known.
    pub known: bool,
    /// Whether it uses the network of its node: no policy applies to it.
    #[serde(default)]
    pub host_network: bool,
    /// Address of the pod on this node; absent for a pod of another node, whose agent isolates it.
    pub address: Option<IpAddr>,
    /// The other node that it is bound to: the agent there also knows whether its rules fit into the maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// NetworkPolicies that isolate what it receives, and ClusterNetworkPolicies with rules for it, in the
    /// order in which they are judged.
    pub ingress: Vec<String>,
    /// As `ingress`, for what it sends.
    pub egress: Vec<String>,
    /// Why it receives nothing, whatever the rules: the agent does not know it yet, or rows do not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_closed: Option<String>,
    /// As `ingress_closed`, for what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_closed: Option<String>,
    /// Their rules, in the order in which they are judged.
    pub rules: Vec<RuleRow>,
    /// What happens to the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowRow>,
}

/// What happens to a flow of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// What translates the destination, for example `Service shop/web (ClusterIP)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_by: Option<String>,
    /// Why nothing can be judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Verdicts: one per endpoint, or one.
    pub judged: Vec<JudgedFlow>,
    /// Number of endpoints without a verdict in `judged`.
    #[serde(default)]
    pub more: usize,
}

/// Verdicts about a flow to or from one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedFlow {
    /// The other end: the destination after translation, or the original client.
    pub peer: IpAddr,
    /// Destination port after translation.
    pub port: u16,
    /// The verdict at the pod that was asked for.
    pub verdict: VerdictRow,
    /// The verdict at the other end, if it is a pod. Of a pod of another node, the objects judge, not its maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_end: Option<JudgedEnd>,
}

/// What policies decide about one side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictRow {
    /// Whether it passes.
    pub allowed: bool,
    /// Pods with the address of the other end.
    pub peers: Vec<String>,
    /// Why: the rule that decides; of a flow that no rule allows, the nearest one first.
    pub reasons: Vec<String>,
    /// The rule that allows the flow, or that of a ClusterNetworkPolicy that denies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// Of a flow that no rule allows, the rules that are nearest to it, in the order of `reasons`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<NearRule>,
}

/// A rule that does not allow a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NearRule {
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Position in `ingress` or `egress`, from 0; absent: the policy has no rule for the direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
}

/// Reference to a rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// `namespace/name` of the policy; the name of a ClusterNetworkPolicy.
    pub policy: String,
    /// Position in `ingress` or `egress`, from 0.
    pub rule: usize,
}

/// Verdicts about a flow at its ends. An end is absent if it is not a pod of this node; the agent of its own
/// node judges it, if it is a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowPolicyRow {
    /// At the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<JudgedEnd>,
    /// At the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<JudgedEnd>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedEnd {
    /// `namespace/name`.
    pub pod: String,
    /// The verdict.
    pub verdict: VerdictRow,
}

impl From<PolicyDirection> for Direction {
    fn from(direction: PolicyDirection) -> Direction {
        match direction {
            PolicyDirection::Ingress => Direction::Ingress,
            PolicyDirection::Egress => Direction::Egress,
        }
    }
}

impl From<Direction> for PolicyDirection {
    fn from(direction: Direction) -> PolicyDirection {
        match direction {
            Direction::Ingress => PolicyDirection::Ingress,
            Direction::Egress => PolicyDirection::Egress,
        }
    }
}

impl From<model::Tier> for Tier {
    fn from(tier: model::Tier) -> Tier {
        match tier {
            model::Tier::Admin => Tier::Admin,
            model::Tier::Baseline => Tier::Baseline,
        }
    }
}

impl From<RuleAction> for Action {
    fn from(action: RuleAction) -> Action {
        match action {
            RuleAction::Accept => Action::Accept,
            RuleAction::Deny => Action::Deny,
            RuleAction::Pass => Action::Pass,
        }
    }
}

impl PolicyFilter {
    /// Whether the name of a policy matches every condition.
    pub fn matches(&self, name: &ObjectName) -> bool {
        let full = name.to_string();
        self.text.as_deref().is_none_or(|text| full.contains(text))
            && self.namespace.as_deref().is_none_or(|namespace| *name.namespace == *namespace)
            && self.name.as_deref().is_none_or(|name| full == name)
    }
}

#[cfg(test)]
mod tests;
