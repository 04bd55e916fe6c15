//! Features of ClusterNetworkPolicies.

use super::super::remove::*;
use super::Feature;
use crate::model::{LabelSelector, Object, PolicyPeer, PortSpec, RuleAction, Tier};

pub const CLUSTER_NETWORK_POLICY: [Feature; 42] = [
    ("tier Admin", 65, |o| {
        o.retain(|o| !matches!(o, Object::ClusterNetworkPolicy(p) if p.tier == Tier::Admin))
    }),
    ("tier Baseline", 30, |o| {
        o.retain(|o| !matches!(o, Object::ClusterNetworkPolicy(p) if p.tier == Tier::Baseline))
    }),
    ("tiers are in order", 28, |o| cluster(o, |p| p.tier = Tier::Baseline)),
    ("priority", 8, |o| cluster(o, |p| p.priority = 1000 - p.priority)),
    ("name, with equal priorities", 13, |o| {
        let reversed = |name: &str| format!("c{}", b'9' - name.bytes().last().unwrap_or(b'0'));
        cluster(o, |p| p.name = reversed(&p.name).into());
    }),
    ("order of rules", 29, |o| {
        cluster(o, |p| {
            p.ingress.reverse();
            p.egress.reverse();
        });
    }),
    ("subject: namespaces", 42, |o| {
        cluster(o, |p| p.subject.namespaces = LabelSelector::default())
    }),
    ("subject: pods", 21, |o| cluster(o, |p| p.subject.pods = LabelSelector::default())),
    ("ingress", 49, |o| cluster(o, |p| p.ingress = [].into())),
    ("egress", 45, |o| cluster(o, |p| p.egress = [].into())),
    ("Accept", 27, |o| no_action(o, RuleAction::Accept)),
    ("Deny", 47, |o| no_action(o, RuleAction::Deny)),
    ("Pass", 11, |o| no_action(o, RuleAction::Pass)),
    ("rule that is not valid: Accept", 13, |o| {
        cluster_rules(o, |rule| {
            rule.invalid = rule.invalid.take().filter(|_| rule.action != RuleAction::Accept);
            true
        });
    }),
    ("rule that is not valid: Deny, Pass", 19, |o| {
        cluster_rules(o, |rule| rule.is_valid() || rule.action == RuleAction::Accept);
    }),
    ("peer: namespaces", 47, |o| {
        cluster_peers(o, |peer| selectors(peer).is_some_and(|(_, p)| p.is_empty()));
    }),
    ("peer: pods", 15, |o| {
        cluster_peers(o, |peer| selectors(peer).is_some_and(|(_, p)| !p.is_empty()));
    }),
    ("networks of IPv4", 10, |o| cluster_peers(o, |peer| is_block_of(peer, false))),
    ("networks of IPv6", 7, |o| cluster_peers(o, |peer| is_block_of(peer, true))),
    ("nodes", 11, |o| cluster_peers(o, |peer| matches!(peer, PolicyPeer::Nodes(_)))),
    ("operator In", 55, |o| cluster_requirements(o, is_in)),
    ("operator NotIn", 7, |o| cluster_requirements(o, is_not_in)),
    ("operator Exists", 12, |o| cluster_requirements(o, exists)),
    ("operator DoesNotExist", 11, |o| cluster_requirements(o, does_not_exist)),
    ("protocol without a port", 5, |o| cluster_ports(o, |p| p.ports == PortSpec::All)),
    ("destinationPort.number", 20, |o| {
        cluster_ports(o, |p| matches!(p.ports, PortSpec::Number(_)));
    }),
    ("destinationPort.range", 6, |o| cluster_ports(o, |p| matches!(p.ports, PortSpec::Range(..)))),
    ("destinationNamedPort", 9, |o| cluster_ports(o, |p| matches!(p.ports, PortSpec::Name(_)))),
    ("rule without peers", 5, |o| {
        cluster_rules(o, |rule| !rule.matches.peers.is_empty());
    }),
    ("peer that is not valid", 5, |o| {
        cluster_peers(o, |peer| matches!(peer, PolicyPeer::Invalid(_)));
    }),
    ("port that is not valid", 5, |o| {
        cluster_ports(o, |port| matches!(port.ports, PortSpec::Invalid(_)));
    }),
    ("second peer", 26, |o| {
        cluster_matches(o, |rule| rule.peers = rule.peers.iter().take(1).cloned().collect());
    }),
    ("second port", 19, |o| {
        cluster_matches(o, |rule| rule.ports = rule.ports.iter().take(1).cloned().collect());
    }),
    ("Baseline is after NetworkPolicies", 19, |o| {
        cluster(o, |p| {
            if p.tier == Tier::Baseline {
                (p.tier, p.priority) = (Tier::Admin, p.priority + 1001);
            }
        });
    }),
    ("Pass of Admin", 7, |o| of_tier(o, Tier::Admin, |rule| rule.action != RuleAction::Pass)),
    ("Pass of Baseline", 4, |o| of_tier(o, Tier::Baseline, |rule| rule.action != RuleAction::Pass)),
    ("Pass to NetworkPolicies", 5, |o| {
        // Without Baseline, NetworkPolicies alone are next.
        if !o.iter().any(|o| is_of_tier(o, Tier::Baseline)) {
            pass_accepts(o);
        }
    }),
    ("Pass to Baseline", 1, |o| {
        if !o.iter().any(|o| matches!(o, Object::NetworkPolicy(_))) {
            pass_accepts(o);
        }
    }),
    ("destinationPort.range: first port", 6, |o| {
        cluster_ranges(o, |first, last| (first.saturating_add(1), last));
    }),
    ("destinationPort.range: last port", 6, |o| cluster_ranges(o, |first, last| (first, last - 1))),
    ("destinationNamedPort of ingress", 4, |o| cluster(o, |p| no_names(&mut p.ingress))),
    ("destinationNamedPort of egress", 3, |o| cluster(o, |p| no_names(&mut p.egress))),
];
