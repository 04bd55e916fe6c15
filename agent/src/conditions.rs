//! Current deviations from the desired state, by concern.
//!
//! A condition is set when a reconciler fails or waits, and cleared when it succeeds. Both changes
//! are logged once, however often the reconciler runs in between.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// A part of the node's state. Each has a reconciler of the same name, except [`Concern::Capacity`]
/// and [`Concern::Conflicts`], which the reconciler of the Service maps reports, and
/// [`Concern::PolicyFindings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Concern {
    /// Pinned maps and programs.
    Pins,
    /// Devices, addresses and default route of the node; the choice of the uplink and of the devices with
    /// programs.
    HostState,
    /// Programs on the devices that packets leave by.
    Devices,
    /// Socket programs at the root of the cgroup hierarchy.
    SocketPrograms,
    /// Forwarding sysctls.
    Forwarding,
    /// The maps of Services and networks.
    ServiceMaps,
    /// Rows that do not fit into the maps.
    Capacity,
    /// The maps of policies.
    Policy,
    /// Pods and policies whose rows do not fit into the maps, or collide.
    PolicyFindings,
    /// Larger maps for rows that do not fit.
    Growth,
    /// Services that claim the same address and port, and Service ranges among pod ranges.
    Conflicts,
    /// Routes to the pods of other nodes.
    Routes,
    /// The map of the devices that packets leave by.
    DeviceMap,
    /// The configuration that the programs read.
    NodeConfig,
    /// Taking over from the programs of another version.
    Migration,
    /// Programs and `LOCAL_PODS` rows of the pods on this node.
    Pods,
    /// `POD_NETNS` rows of the pods on this node.
    PodNetns,
    /// `HOST_PORTS` rows of the pods on this node.
    HostPorts,
    /// MTU of running pods.
    PodMtu,
    /// Leases of removed sandboxes, and whether an address is left.
    Leases,
    /// UDP sockets connected to removed backends.
    StaleSockets,
    /// Servers of the healthCheckNodePorts.
    HealthCheckPorts,
    /// CNI binary and CNI configuration.
    CniFiles,
    /// Pins of another ABI version.
    StalePins,
    /// Rules of kube-proxy, CNI configurations that precede Sluice's.
    OtherNetworks,
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a concern is not in its desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A precondition does not hold yet.
    Waiting,
    /// An operation failed and is retried.
    Failed,
    /// A retry cannot help: objects of the API or the configuration have to change.
    Degraded,
}

/// A concern that is not in its desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The concern.
    pub concern: Concern,
    /// Why.
    pub status: Status,
    /// Object, problem and remedy in one line.
    pub message: String,
    /// Since when the concern has had this status.
    pub since: Instant,
}

/// The conditions that are set.
#[derive(Clone, Debug, Default)]
pub struct Conditions(BTreeMap<Concern, Condition>);

impl Conditions {
    /// Sets the condition of a concern.
    pub fn set(&mut self, concern: Concern, status: Status, message: String, now: Instant) {
        let old = self.0.get(&concern);
        if old.is_some_and(|old| old.status == status && old.message == message) {
            return;
        }
        match status {
            Status::Waiting => tracing::info!(%concern, reason = %message, "condition: waiting"),
            Status::Failed => {
                tracing::warn!(%concern, error = %message, "condition: failed, retrying");
            }
            Status::Degraded => tracing::warn!(%concern, reason = %message, "condition: degraded"),
        }
        let since = old.filter(|old| old.status == status).map_or(now, |old| old.since);
        self.0.insert(concern, Condition { concern, status, message, since });
    }

    /// Clears the condition of a concern.
    pub fn clear(&mut self, concern: Concern) {
        if self.0.remove(&concern).is_some_and(|old| old.status != Status::Waiting) {
            tracing::info!(%concern, "condition cleared");
        }
    }

    /// The condition of a concern, if one is set.
    pub fn get(&self, concern: Concern) -> Option<&Condition> {
        self.0.get(&concern)
    }

    /// Whether one of these concerns has a condition.
    pub fn any(&self, concerns: &[Concern]) -> bool {
        concerns.iter().any(|concern| self.get(*concern).is_some())
    }

    /// Whether one of these concerns waits or failed. One that is degraded is in the kernel as far as it can be.
    pub fn any_pending(&self, concerns: &[Concern]) -> bool {
        let mut set = concerns.iter().filter_map(|concern| self.get(*concern));
        set.any(|condition| condition.status != Status::Degraded)
    }

    /// The condition of a concern if an operation failed and was not repeated successfully since.
    pub fn failed(&self, concern: Concern) -> Option<&Condition> {
        self.get(concern).filter(|c| c.status == Status::Failed)
    }

    /// All conditions that are set, by concern.
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_of_a_condition_is_kept_until_its_status_changes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut conditions = Conditions::default();
        conditions.set(Concern::Routes, Status::Failed, "a".into(), at(0));
        conditions.set(Concern::Routes, Status::Failed, "b".into(), at(1));
        let condition = conditions.get(Concern::Routes).unwrap();
        assert_eq!((condition.message.as_str(), condition.since), ("b", at(0)));
        conditions.set(Concern::Routes, Status::Waiting, "b".into(), at(2));
        assert_eq!(conditions.get(Concern::Routes).unwrap().since, at(2));
        assert_eq!(conditions.failed(Concern::Routes), None);
        conditions.clear(Concern::Routes);
        assert!(conditions.iter().next().is_none());
    }
}
