//! NetworkPolicy: the rows that say what the pods of this node may send and receive.
//!
//! ```text
//! policies, Pods, Namespaces, Nodes --Index--+
//!                                            +--> Policies --> Step, Step.. --> writes
//! leases of the pods of this node -----------+
//! ```
//! The rows follow from the objects alone, not from the order of the changes; ids are hashes of
//! contents. A change becomes up to three steps, and during each of them every pod of this node judges
//! every address as before or as after the change.

mod rows;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use rows::{PolicyRows, RowChange, Step};
use sluice_abi::{PodPolicy, PolicyDirection, namespace_id};

use crate::index::{Index, PolicyDirty};
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
            FindingReason::Capacity => "PolicyCapacity",
            FindingReason::Collision => "PolicyCollision",
        }
    }

    /// Whether the policy may be as intended: [`FindingReason::NoPod`] is often a pod that does not
    /// exist yet.
    pub const fn is_warning(self) -> bool {
        matches!(self, FindingReason::NoPod)
    }
}

/// One side of a flow: what a pod sends or receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
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
    /// The policies that isolate the pod in this direction, by name.
    pub isolating: Vec<ObjectName>,
    /// What happens.
    pub verdict: Verdict,
}

/// What policies decide, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The Pod object is not known, and its namespace has policies: nothing passes yet.
    Pending,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// This rule allows it; the first one of the first policy.
    Allowed(RuleName),
    /// No rule allows it; the rule that is nearest to it comes first.
    Denied(Vec<NearMiss>),
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: ObjectName,
    /// Position in `ingress` or `egress`, from 0.
    pub rule: usize,
}

/// A rule that does not allow a flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule; `None`: the policy has no rule in this direction.
    pub rule: RuleName,
    /// "shop/db-ingress allows TCP 5432 from role=api; the client has role=web".
    pub text: String,
}

/// The rows of the policies, brought up to date by the changes of objects.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    rows: PolicyRows,
}

impl Policies {
    /// Brings the rows up to date. Returns the steps in the order in which they are carried out; none
    /// if no row changes.
    ///
    /// `local` are all pods of this node. Requires that NetworkPolicies, Namespaces, Pods and Nodes
    /// have been listed; before that, only [`open_namespaces`] may be written.
    pub fn update(&mut self, index: &Index, _: &PolicyDirty, local: &[LocalPod]) -> Vec<Step> {
        let mut rows =
            PolicyRows { open_namespaces: open_namespaces(index, local), ..PolicyRows::default() };
        for pod in local {
            let namespace = pod.name.as_ref().map(|name| &*name.namespace);
            if namespace.is_none_or(|n| index.network_policies_of(n).next().is_none()) {
                let row = PodPolicy { generation: pod.generation, ..PodPolicy::default() };
                rows.pods.insert(pod.index.into(), row);
            }
        }
        let step = Step::between(&self.rows, &rows);
        self.rows = rows;
        if step.is_empty() { Vec::new() } else { vec![step] }
    }

    /// All rows: for the comparison with the maps at the start, after a write that failed, and from time
    /// to time. Rows of pods have the revision 0.
    pub fn rows(&self) -> PolicyRows {
        self.rows.clone()
    }

    /// Problems of the policies that apply to pods of this node, and of the maps.
    pub fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Why a pod of this node may or may not send or receive something.
    pub fn explain(&self, _: &Index, _: &Question) -> Explanation {
        Explanation { isolating: Vec::new(), verdict: Verdict::Pending }
    }
}

/// Ids of the namespaces that no policy is in: of all Namespace objects and of all pods of this node.
/// Requires that NetworkPolicies and Namespaces have been listed.
pub fn open_namespaces(index: &Index, local: &[LocalPod]) -> BTreeMap<u64, u32> {
    let of_pods = local.iter().filter_map(|pod| Some(&*pod.name.as_ref()?.namespace));
    let names = index.namespaces().map(|namespace| namespace.name.as_str()).chain(of_pods);
    let mut open: BTreeMap<u64, u32> = names.map(|name| (namespace_id(name), 1)).collect();
    // Two names with one id are open only if both are.
    for policy in index.network_policies() {
        open.remove(&namespace_id(&policy.name.namespace));
    }
    open
}
