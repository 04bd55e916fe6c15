//! The features of policies, and what verdicts are without them.

use std::mem;

use super::remove::*;
use crate::model::{
    LabelSelector, Object, PodPhase, PolicyPeer, PolicyPort, PortSpec, Protocol, RuleAction, Tier,
};

/// A feature: the least number of generated clusters in which verdicts differ without it (about half of those in
/// these samples; 0: the generators do not produce such a cluster yet), and how it is removed.
pub type Feature = (&'static str, usize, fn(&mut Vec<Object>));

pub const NETWORK_POLICY: [Feature; 33] = [
    ("podSelector", 21, |o| own(o, |p| p.pod_selector = LabelSelector::default())),
    ("Ingress alone", 6, |o| {
        own(o, |p| {
            if p.ingress.is_some() {
                p.egress.get_or_insert_default();
            }
        });
    }),
    ("Egress alone", 7, |o| {
        own(o, |p| {
            if p.egress.is_some() {
                p.ingress.get_or_insert_default();
            }
        });
    }),
    ("Ingress and Egress", 17, |o| {
        own(o, |p| p.egress = p.egress.take().filter(|_| p.ingress.is_none()))
    }),
    ("empty list of rules", 12, |o| {
        own(o, |p| {
            for end in [&mut p.ingress, &mut p.egress] {
                *end = end.take().filter(|rules| !rules.is_empty());
            }
        });
    }),
    ("second rule", 17, |o| {
        own(o, |p| {
            for rules in [&mut p.ingress, &mut p.egress].into_iter().flatten() {
                *rules = rules.iter().take(1).cloned().collect();
            }
        });
    }),
    ("second policy", 9, |o| {
        let mut seen = Vec::new();
        o.retain(|object| match object {
            Object::NetworkPolicy(p) => {
                let is_first = !seen.contains(&p.name.namespace);
                seen.push(p.name.namespace.clone());
                is_first
            }
            _ => true,
        });
    }),
    ("no peers", 17, |o| {
        own_rules(o, |rule| {
            if rule.peers.is_empty() {
                rule.peers = [PolicyPeer::Invalid("".into())].into();
            }
        });
    }),
    ("no ports", 17, |o| {
        own_rules(o, |rule| {
            if rule.ports.is_empty() {
                let ports = PortSpec::Invalid("".into());
                rule.ports = [PolicyPort { protocol: Protocol::Tcp, ports }].into();
            }
        });
    }),
    ("peer: podSelector alone", 1, |o| {
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| n.is_none() && !p.is_empty()));
    }),
    ("peer: empty podSelector", 1, |o| {
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| n.is_none() && p.is_empty()));
    }),
    ("peer: namespaceSelector alone", 1, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(|n| !n.is_empty());
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| is(n) && p.is_empty()));
    }),
    ("peer: both selectors", 1, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(|n| !n.is_empty());
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| is(n) && !p.is_empty()));
    }),
    ("peer: empty namespaceSelector", 1, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(LabelSelector::is_empty);
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, _)| is(n)));
    }),
    ("peer: empty namespaceSelector is not an absent one", 1, |o| {
        own_rules(o, |rule| {
            for peer in &mut rule.peers {
                if let PolicyPeer::Pods { namespaces, .. } = peer {
                    *namespaces = namespaces.take().filter(|n| !n.is_empty());
                }
            }
        });
    }),
    ("operator In", 21, |o| own_requirements(o, is_in)),
    ("operator NotIn", 4, |o| own_requirements(o, is_not_in)),
    ("operator Exists", 4, |o| own_requirements(o, exists)),
    ("operator DoesNotExist", 4, |o| own_requirements(o, does_not_exist)),
    ("ipBlock of IPv4", 8, |o| own_peers(o, |peer| is_block_of(peer, false))),
    ("ipBlock of IPv6", 3, |o| own_peers(o, |peer| is_block_of(peer, true))),
    ("except", 4, |o| no_exceptions(o)),
    ("peer that is not valid", 1, |o| {
        own_rules(o, |rule| {
            let peers = mem::take(&mut rule.peers).into_vec().into_iter();
            rule.peers = peers.filter(|p| !matches!(p, PolicyPeer::Invalid(_))).collect();
        });
    }),
    ("port: all of a protocol", 6, |o| own_ports(o, |p| p.ports == PortSpec::All)),
    ("port: number", 4, |o| own_ports(o, |p| matches!(p.ports, PortSpec::Number(_)))),
    ("endPort", 8, |o| {
        own_rules(o, |rule| {
            for port in &mut rule.ports {
                if let PortSpec::Range(first, _) = port.ports {
                    port.ports = PortSpec::Number(first);
                }
            }
        });
    }),
    ("endPort lower than port", 5, |o| {
        own_rules(o, |rule| {
            for port in &mut rule.ports {
                if let PortSpec::Range(first, last) = port.ports {
                    port.ports = PortSpec::Range(first.min(last), first.max(last));
                }
            }
        });
    }),
    ("port: name", 1, |o| own_ports(o, |p| matches!(p.ports, PortSpec::Name(_)))),
    ("protocol of a name", 0, |o| {
        pods(o, |pod| {
            pod.ports = pod.ports.iter().filter(|p| p.protocol == Protocol::Tcp).cloned().collect()
        });
    }),
    ("port that is not valid", 1, |o| {
        own_rules(o, |rule| {
            let ports = mem::take(&mut rule.ports).into_vec().into_iter();
            rule.ports = ports.filter(|p| !matches!(p.ports, PortSpec::Invalid(_))).collect();
        });
    }),
    ("TCP", 10, |o| own_ports(o, |p| p.protocol == Protocol::Tcp)),
    ("UDP", 7, |o| own_ports(o, |p| p.protocol == Protocol::Udp)),
    ("SCTP", 1, |o| own_ports(o, |p| p.protocol == Protocol::Sctp)),
];

pub const CLUSTER_NETWORK_POLICY: [Feature; 28] = [
    ("tier Admin", 39, |o| {
        o.retain(|o| !matches!(o, Object::ClusterNetworkPolicy(p) if p.tier == Tier::Admin))
    }),
    ("tier Baseline", 29, |o| {
        o.retain(|o| !matches!(o, Object::ClusterNetworkPolicy(p) if p.tier == Tier::Baseline))
    }),
    ("tiers are in order", 4, |o| cluster(o, |p| p.tier = Tier::Baseline)),
    ("priority", 0, |o| cluster(o, |p| p.priority = 1000 - p.priority)),
    ("name, with equal priorities", 0, |o| {
        let reversed = |name: &str| format!("c{}", b'9' - name.bytes().last().unwrap_or(b'0'));
        cluster(o, |p| p.name = reversed(&p.name).into());
    }),
    ("order of rules", 3, |o| {
        cluster(o, |p| {
            p.ingress.reverse();
            p.egress.reverse();
        });
    }),
    ("subject: namespaces", 42, |o| {
        cluster(o, |p| p.subject.namespaces = LabelSelector::default())
    }),
    ("subject: pods", 12, |o| cluster(o, |p| p.subject.pods = LabelSelector::default())),
    ("ingress", 21, |o| cluster(o, |p| p.ingress = [].into())),
    ("egress", 14, |o| cluster(o, |p| p.egress = [].into())),
    ("Accept", 6, |o| no_action(o, RuleAction::Accept)),
    ("Deny", 14, |o| no_action(o, RuleAction::Deny)),
    ("Pass", 5, |o| no_action(o, RuleAction::Pass)),
    ("rule that is not valid: Accept", 0, |o| {
        cluster_rules(o, |rule| {
            rule.invalid = rule.invalid.take().filter(|_| rule.action != RuleAction::Accept);
            true
        });
    }),
    ("rule that is not valid: Deny, Pass", 3, |o| {
        cluster_rules(o, |rule| rule.is_valid() || rule.action == RuleAction::Accept);
    }),
    ("peer: namespaces", 5, |o| {
        cluster_peers(o, |peer| selectors(peer).is_some_and(|(_, p)| p.is_empty()));
    }),
    ("peer: pods", 10, |o| {
        cluster_peers(o, |peer| selectors(peer).is_some_and(|(_, p)| !p.is_empty()));
    }),
    ("networks of IPv4", 5, |o| cluster_peers(o, |peer| is_block_of(peer, false))),
    ("networks of IPv6", 4, |o| cluster_peers(o, |peer| is_block_of(peer, true))),
    ("nodes", 2, |o| cluster_peers(o, |peer| matches!(peer, PolicyPeer::Nodes(_)))),
    ("operator In", 31, |o| cluster_requirements(o, is_in)),
    ("operator NotIn", 7, |o| cluster_requirements(o, is_not_in)),
    ("operator Exists", 7, |o| cluster_requirements(o, exists)),
    ("operator DoesNotExist", 5, |o| cluster_requirements(o, does_not_exist)),
    ("protocol without a port", 3, |o| cluster_ports(o, |p| p.ports == PortSpec::All)),
    ("destinationPort.number", 7, |o| {
        cluster_ports(o, |p| matches!(p.ports, PortSpec::Number(_)));
    }),
    ("destinationPort.range", 3, |o| cluster_ports(o, |p| matches!(p.ports, PortSpec::Range(..)))),
    ("destinationNamedPort", 3, |o| cluster_ports(o, |p| matches!(p.ports, PortSpec::Name(_)))),
];

/// What selectors and addresses are compared with.
pub const OTHERS: [Feature; 9] = [
    ("labels of pods", 11, |o| pods(o, |pod| pod.labels = Default::default())),
    ("labels of namespaces", 10, |o| {
        for object in o {
            if let Object::Namespace(namespace) = object {
                namespace.labels.clear();
            }
        }
    }),
    ("Namespaces that are known", 46, |o| o.retain(|o| !matches!(o, Object::Namespace(_)))),
    ("Nodes", 5, |o| o.retain(|o| !matches!(o, Object::Node(_)))),
    ("UIDs", 26, |o| pods(o, |pod| pod.uid = None)),
    ("phases", 5, |o| pods(o, |pod| pod.phase = PodPhase::Running)),
    ("hostNetwork", 1, |o| pods(o, |pod| pod.host_network = false)),
    ("Pods that terminate", 0, |o| pods(o, |pod| pod.terminating = false)),
    ("Pods that are not known", 52, |o| o.retain(|o| !matches!(o, Object::Pod(_)))),
];
