//! Pods, as far as wiring and leases require them.

use std::net::IpAddr;

use super::ObjectName;

/// Phase of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// Running.
    Running,
    /// All containers terminated successfully; its addresses may be reused.
    Succeeded,
    /// All containers terminated, at least one with an error; its addresses may be reused.
    Failed,
    /// The node does not respond.
    Unknown,
}

impl PodPhase {
    /// From the API value; unknown values are [`PodPhase::Unknown`].
    pub fn from_api(word: Option<&str>) -> PodPhase {
        match word {
            None | Some("" | "Pending") => PodPhase::Pending,
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            Some(_) => PodPhase::Unknown,
        }
    }

    /// Whether the Pod is Succeeded or Failed: it does not run again.
    pub fn is_over(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// UID: Pods of a StatefulSet are created again with the same name.
    pub uid: String,
    /// Phase.
    pub phase: PodPhase,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// `podIPs`, or `podIP` if only that is set.
    pub ips: Vec<IpAddr>,
    /// Node that it is bound to.
    pub node: Option<String>,
}
