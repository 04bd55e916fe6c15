//! Pods, as far as wiring and leases need them.

use std::net::IpAddr;

use super::ObjectName;

/// Where a Pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// Not all containers started yet.
    #[default]
    Pending,
    /// Running.
    Running,
    /// All containers ended well; its addresses may be reused.
    Succeeded,
    /// All containers ended, one badly; its addresses may be reused.
    Failed,
    /// The node does not answer.
    Unknown,
}

impl PodPhase {
    /// From the API's word; anything unheard of is [`PodPhase::Unknown`].
    pub fn from_api(word: Option<&str>) -> PodPhase {
        match word {
            None | Some("" | "Pending") => PodPhase::Pending,
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            Some(_) => PodPhase::Unknown,
        }
    }

    /// Whether the Pod will never run again.
    pub fn is_over(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// UID: a Pod of a StatefulSet comes again under the same name.
    pub uid: String,
    /// Phase.
    pub phase: PodPhase,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// `podIPs`, or `podIP` where only that is set.
    pub ips: Vec<IpAddr>,
    /// Node it was bound to.
    pub node: Option<String>,
}
