//! Why a direction of a pod is closed, whatever its rules.

use std::net::IpAddr;

use sluice_abi::PolicyDirection;

use super::super::compiler::Policies;
use super::super::{Closing, FindingReason};
use super::Judging;
use crate::index::Index;
use crate::model::{Pod, PolicyPeer};

impl Policies {
    /// Why a table of a pod in a direction is closed; `None`: it is not.
    pub(in super::super) fn closing_of(
        &self,
        index: &Index,
        pod: &Pod,
        direction: PolicyDirection,
        table: u32,
    ) -> Option<Closing> {
        self.tables.closed(table)?;
        self.closing(&Judging::of(index, pod, direction), table)
    }

    /// Why the table of policies is closed; `None`: it is not.
    pub(super) fn closing(&self, judging: &Judging<'_>, table: u32) -> Option<Closing> {
        let reason = self.tables.closed(table)?;
        if reason == FindingReason::Collision {
            // The identity of a table has no rules, a set of ports no selectors.
            let text = match self.tables.identities.collides(table) {
                true => "its policies have the same id as others; change the podSelector of one",
                false => "rules have the same id as others; change the ports of a rule",
            };
            return Some(Closing { reason, policy: None, text: text.to_owned() });
        }
        let tiers = [&judging.admin, &judging.baseline];
        let mut peers = tiers.into_iter().flat_map(|tier| tier.not_accepted());
        let of_policy = |(policy, peer)| self.gap(peer).map(|what| (policy, what));
        let gap = peers.find_map(of_policy);
        let text = match &gap {
            Some((policy, what)) => {
                format!(
                    "{what} of {} does not fit into the map, and rules must not accept it",
                    policy.name
                )
            }
            None => "the rows of its policies do not fit into the maps".to_owned(),
        };
        Some(Closing { reason, policy: gap.map(|(policy, _)| policy.object_name()), text })
    }

    /// What of a peer of a rule that does not accept is not in the maps.
    fn gap(&self, peer: &PolicyPeer) -> Option<String> {
        match peer {
            PolicyPeer::Block(block) if !self.has_addresses_of(peer) => {
                Some(format!("block {}", block.cidr))
            }
            PolicyPeer::Nodes(_) if !self.has_addresses_of(peer) => {
                Some("the list of addresses of nodes".to_owned())
            }
            PolicyPeer::Pods { .. } => {
                let mut outside = self.unclassed.iter().copied().map(IpAddr::from);
                // Not which one: the text would change with the pods of the cluster. The finding of the
                // node names one.
                let is_gap = outside.any(|address| !self.networks.in_pod_range(address));
                is_gap.then(|| "the address of a possible peer".to_owned())
            }
            _ => None,
        }
    }
}
