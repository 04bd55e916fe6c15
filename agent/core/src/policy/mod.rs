//! NetworkPolicies and ClusterNetworkPolicies: the rows that say what the pods of this node may send and receive.
//!
//! ```text
//! policies, Pods, Namespaces, Nodes --Index--+
//!                                            +--> Policies --> Step, Step.. --> writes
//! leases of the pods of this node -----------+
//! ```
//! The rows follow from the objects alone, not from the order of the changes, as long as the maps hold them: which
//! addresses get no class in a full map depends on what was there before. A change becomes one or more
//! steps, and during each of them every pod of this node judges every address as before or as after the
//! change, or it is closed. A flow between two of them that is denied before and after is denied during each
//! of them.

mod classes;
mod compiler;
mod describe;
mod explain;
mod findings;
#[cfg(any(test, feature = "generate"))]
mod interpret;
mod namespaces;
mod networks;
mod numbers;
mod pairs;
mod pods;
mod ports;
mod recovery;
mod registry;
mod rows;
mod rules;
mod selection;
mod selectors;
mod subjects;
mod tables;
mod term;
mod tracked;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use compiler::Policies;
pub use describe::{direction as direction_name, preposition};
pub use findings::{check_all, unused_rules};
#[cfg(any(test, feature = "generate"))]
pub use interpret::Judgement;
pub use rows::{PolicyRows, RowChange, Step};
pub use selection::{selects_namespace, subject_selects};
use sluice_abi::{PolicyDirection, map, namespace_id};
#[cfg(any(test, feature = "generate"))]
pub use tables::CLOSED_END;

use crate::index::Index;
use crate::model::{Kind, ObjectName, Uid};

/// A pod of this node, by its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Index in the maps.
    pub index: u16,
    /// Generation of the index, not 0.
    pub generation: u16,
    /// Address.
    pub address: IpAddr,
    /// Namespace and name; `None`: the pod is not one of Kubernetes, and no policy applies to it.
    pub name: Option<ObjectName>,
    /// UID of the Pod object.
    pub uid: Option<Uid>,
}

/// Which Pods of the cluster the agent watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownPods {
    /// All of them.
    OfCluster,
    /// Those of this node. Whether any pod has a port with some name is then not known.
    OfNode,
    /// All of the namespaces that have any: those of a file.
    OfNamespaces,
}

/// A problem of a policy or of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// What is wrong.
    pub reason: FindingReason,
    /// Field and consequence, as one sentence without the name of the object.
    pub text: String,
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingReason {
    /// No selected pod has a container port with this name and protocol.
    UndefinedPort,
    /// `endPort` is lower than `port`.
    EmptyPortRange,
    /// A part is not valid and matches nothing.
    InvalidPart,
    /// A selector matches no pod.
    NoPod,
    /// `policyTypes` lacks the direction of rules.
    UnusedRules,
    /// The rows do not fit into the maps: pods are closed.
    Capacity,
    /// Two contents have the same id: pods are closed.
    Collision,
}

impl FindingReason {
    /// The reason of an Event.
    pub const fn name(self) -> &'static str {
        match self {
            FindingReason::UndefinedPort => "UndefinedPort",
            FindingReason::EmptyPortRange => "EmptyPortRange",
            FindingReason::InvalidPart => "InvalidPart",
            FindingReason::NoPod => "SelectorMatchesNothing",
            FindingReason::UnusedRules => "RulesWithoutPolicyType",
            FindingReason::Capacity => "PolicyCapacity",
            FindingReason::Collision => "PolicyCollision",
        }
    }

    /// Whether the policy may be as intended: [`FindingReason::NoPod`] is often a pod that does not
    /// exist yet, and the API allows rules without their policy type.
    pub const fn is_warning(self) -> bool {
        matches!(self, FindingReason::NoPod | FindingReason::UnusedRules)
    }

    /// Whether the rows are not in the maps of this node as written. Others are mistakes in an object, which are
    /// carried out as documented.
    pub const fn is_of_node(self) -> bool {
        matches!(self, FindingReason::Capacity | FindingReason::Collision)
    }
}

/// One side of a flow: what a pod sends or receives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The pod whose policies judge.
    pub pod: ObjectName,
    /// Whether the pod opens or receives the flow.
    pub direction: PolicyDirection,
    /// The other end: the destination after translation, or the original client.
    pub peer: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port after translation.
    pub port: u16,
}

/// Why one side of a flow passes or is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The pods that have the peer's address: one, or none for an address that no known pod has.
    pub peers: Vec<ObjectName>,
    /// The policies that decide for the pod in this direction: ClusterNetworkPolicies of the tier Admin in
    /// their order, then NetworkPolicies by name, or without any those of the tier Baseline.
    pub isolating: Vec<ObjectName>,
    /// What happens.
    pub verdict: Verdict,
}

/// What policies decide, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The Pod object or the namespace is not known, and policies may select the pod: nothing passes yet.
    Pending,
    /// No policy isolates the pod in this direction, and no ClusterNetworkPolicy decides.
    NotIsolated,
    /// The pod uses the network of its node: no policy applies to it.
    HostNetwork,
    /// This rule allows it; of NetworkPolicies, the first one of the first policy.
    Allowed(RuleName),
    /// This rule of a ClusterNetworkPolicy denies it.
    DeniedBy(DenyingRule),
    /// No rule allows it; up to eight rules, the nearest one first.
    Denied(Vec<NearMiss>),
    /// Nothing passes, whatever the rules: they are not in the maps.
    Closed(Closing),
}

/// Why a direction of a pod is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// [`FindingReason::Capacity`] or [`FindingReason::Collision`].
    pub reason: FindingReason,
    /// The policy with a part that does not fit, if that is the cause.
    pub policy: Option<ObjectName>,
    /// "block 10.0.0.0/8 of guard does not fit into the map, and rules must not accept it".
    pub text: String,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: ObjectName,
    /// Position in `ingress` or `egress`, from 0.
    pub rule: usize,
}

/// A rule that denies a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyingRule {
    /// The rule.
    pub rule: RuleName,
    /// "no-metadata denies TCP 80 to 169.254.169.254/32".
    pub text: String,
}

/// Why a policy does not allow a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The policy.
    pub policy: ObjectName,
    /// Position of the rule in `ingress` or `egress`; `None`: there is none.
    pub rule: Option<usize>,
    /// "shop/db allows TCP 5432 from role=api; the client has role=web".
    pub text: String,
}

/// Ids of the namespaces in which no policy can select pods: of all Namespace objects and of all pods of this node,
/// as many as fit. Requires that policies and Namespaces have been listed.
pub fn open_namespaces(index: &Index, local: &[LocalPod]) -> BTreeMap<u64, u32> {
    let of_pods = local.iter().filter_map(|pod| Some(&*pod.name.as_ref()?.namespace));
    let of_objects = index.namespaces().map(|namespace| namespace.name.as_str());
    let names: BTreeSet<&str> = of_objects.chain(of_pods).collect();
    let mut open: BTreeMap<u64, u32> = names.iter().map(|name| (namespace_id(name), 1)).collect();
    // Two names with one id are open only if both are.
    let of_policies = index.network_policies().map(|policy| &*policy.name.namespace);
    for name in of_policies.chain(names.into_iter().filter(|name| cluster_may_select(index, name)))
    {
        open.remove(&namespace_id(name));
    }
    open.into_iter().take(map::OPEN_NAMESPACES_MAX as usize).collect()
}

/// Whether a policy may select pods of a namespace.
fn may_select(index: &Index, namespace: &str) -> bool {
    index.network_policies_of(namespace).next().is_some() || cluster_may_select(index, namespace)
}

/// Whether a ClusterNetworkPolicy may select pods of a namespace: it selects the namespace, or the
/// labels of the namespace are not known.
fn cluster_may_select(index: &Index, namespace: &str) -> bool {
    let is_known = index.namespace(namespace).is_some();
    index.cluster_network_policies().filter(|policy| policy.has_rules()).any(|policy| {
        !is_known || selection::selects_namespace(index, &policy.subject.namespaces, namespace)
    })
}

#[cfg(test)]
mod tests;
