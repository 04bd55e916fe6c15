//! Features of NetworkPolicies.

use std::mem;

use ipnet::IpNet;

use super::super::remove::*;
use super::Feature;
use crate::model::{
    IpBlock, LabelSelector, NetworkPolicy, Object, ObjectName, PolicyPeer, PolicyPort, Port,
    PortSpec, Protocol,
};

pub const NETWORK_POLICY: [Feature; 52] = [
    ("podSelector", 27, |o| own(o, |p| p.pod_selector = LabelSelector::default())),
    ("Ingress alone", 12, |o| {
        own(o, |p| {
            if p.ingress.is_some() {
                p.egress.get_or_insert_default();
            }
        });
    }),
    ("Egress alone", 14, |o| {
        own(o, |p| {
            if p.egress.is_some() {
                p.ingress.get_or_insert_default();
            }
        });
    }),
    ("Ingress and Egress", 55, |o| {
        own(o, |p| p.egress = p.egress.take().filter(|_| p.ingress.is_none()))
    }),
    ("empty list of rules", 33, |o| {
        own(o, |p| {
            for end in [&mut p.ingress, &mut p.egress] {
                *end = end.take().filter(|rules| !rules.is_empty());
            }
        });
    }),
    ("second rule", 43, |o| {
        own(o, |p| {
            for rules in [&mut p.ingress, &mut p.egress].into_iter().flatten() {
                *rules = rules.iter().take(1).cloned().collect();
            }
        });
    }),
    ("second policy", 30, |o| {
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
    ("no peers", 36, |o| {
        own_rules(o, |rule| {
            if rule.peers.is_empty() {
                rule.peers = [PolicyPeer::Invalid("".into())].into();
            }
        });
    }),
    ("no ports", 51, |o| {
        own_rules(o, |rule| {
            if rule.ports.is_empty() {
                let ports = PortSpec::Invalid("".into());
                rule.ports = [PolicyPort { protocol: Protocol::Tcp, ports }].into();
            }
        });
    }),
    ("peer: podSelector alone", 6, |o| {
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| n.is_none() && !p.is_empty()));
    }),
    ("peer: empty podSelector", 4, |o| {
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| n.is_none() && p.is_empty()));
    }),
    ("peer: namespaceSelector alone", 8, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(|n| !n.is_empty());
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| is(n) && p.is_empty()));
    }),
    ("peer: both selectors", 11, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(|n| !n.is_empty());
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, p)| is(n) && !p.is_empty()));
    }),
    ("peer: empty namespaceSelector", 15, |o| {
        let is = |n: Option<&LabelSelector>| n.is_some_and(LabelSelector::is_empty);
        own_peers(o, |peer| selectors(peer).is_some_and(|(n, _)| is(n)));
    }),
    ("peer: empty namespaceSelector is not an absent one", 13, |o| {
        own_rules(o, |rule| {
            for peer in &mut rule.peers {
                if let PolicyPeer::Pods { namespaces, .. } = peer {
                    *namespaces = namespaces.take().filter(|n| !n.is_empty());
                }
            }
        });
    }),
    ("operator In", 35, |o| own_requirements(o, is_in)),
    ("operator NotIn", 5, |o| own_requirements(o, is_not_in)),
    ("operator Exists", 14, |o| own_requirements(o, exists)),
    ("operator DoesNotExist", 10, |o| own_requirements(o, does_not_exist)),
    ("ipBlock of IPv4", 27, |o| own_peers(o, |peer| is_block_of(peer, false))),
    ("ipBlock of IPv6", 11, |o| own_peers(o, |peer| is_block_of(peer, true))),
    ("except", 14, |o| no_exceptions(o)),
    ("peer that is not valid", 2, |o| {
        own_rules(o, |rule| {
            let peers = mem::take(&mut rule.peers).into_vec().into_iter();
            rule.peers = peers.filter(|p| !matches!(p, PolicyPeer::Invalid(_))).collect();
        });
    }),
    ("port: all of a protocol", 10, |o| own_ports(o, |p| p.ports == PortSpec::All)),
    ("port: number", 9, |o| own_ports(o, |p| matches!(p.ports, PortSpec::Number(_)))),
    ("endPort", 21, |o| {
        own_rules(o, |rule| {
            for port in &mut rule.ports {
                if let PortSpec::Range(first, _) = port.ports {
                    port.ports = PortSpec::Number(first);
                }
            }
        });
    }),
    ("endPort lower than port", 9, |o| {
        own_rules(o, |rule| {
            for port in &mut rule.ports {
                if let PortSpec::Range(first, last) = port.ports {
                    port.ports = PortSpec::Range(first.min(last), first.max(last));
                }
            }
        });
    }),
    ("port: name", 11, |o| own_ports(o, |p| matches!(p.ports, PortSpec::Name(_)))),
    ("port that is not valid", 5, |o| {
        own_rules(o, |rule| {
            let ports = mem::take(&mut rule.ports).into_vec().into_iter();
            rule.ports = ports.filter(|p| !matches!(p.ports, PortSpec::Invalid(_))).collect();
        });
    }),
    ("TCP", 20, |o| own_ports(o, |p| p.protocol == Protocol::Tcp)),
    ("UDP", 21, |o| own_ports(o, |p| p.protocol == Protocol::Udp)),
    ("SCTP", 7, |o| own_ports(o, |p| p.protocol == Protocol::Sctp)),
    ("namespace of a policy", 95, |o| {
        let namespaces = ["shop", "test", "infra"];
        let policies = mem::take(o).into_iter().flat_map(|object| match object {
            Object::NetworkPolicy(p) => {
                let of = |(at, namespace): (usize, &&str)| {
                    let name = format!("{}-{}-{at}", p.name.namespace, p.name.name);
                    let name = ObjectName::new(*namespace, name);
                    Object::NetworkPolicy(NetworkPolicy { name, ..p.clone() })
                };
                namespaces.iter().enumerate().map(of).collect()
            }
            other => vec![other],
        });
        *o = policies.collect();
    }),
    ("second peer", 32, |o| {
        own_rules(o, |rule| rule.peers = rule.peers.iter().take(1).cloned().collect());
    }),
    ("second port", 23, |o| {
        own_rules(o, |rule| rule.ports = rule.ports.iter().take(1).cloned().collect());
    }),
    ("no ports: other protocols", 47, |o| {
        own_rules(o, |rule| {
            if rule.ports.is_empty() {
                let all = |protocol| PolicyPort { protocol, ports: PortSpec::All };
                rule.ports = PROTOCOLS.map(all).into();
            }
        });
    }),
    ("peer: podSelector alone is of the namespace of the policy", 11, |o| {
        own_rules(o, |rule| {
            for peer in &mut rule.peers {
                if let PolicyPeer::Pods { namespaces, .. } = peer {
                    namespaces.get_or_insert_default();
                }
            }
        });
    }),
    ("peer: both selectors, with In", 5, |o| both_requirements(o, is_in)),
    ("peer: both selectors, with NotIn", 2, |o| both_requirements(o, is_not_in)),
    ("peer: both selectors, with Exists", 7, |o| both_requirements(o, exists)),
    ("peer: both selectors, with DoesNotExist", 4, |o| both_requirements(o, does_not_exist)),
    ("ipBlock with host bits", 4, |o| {
        let has_host_bits = |b: &IpBlock| b.cidr.trunc() != b.cidr;
        own_peers(o, |peer| matches!(peer, PolicyPeer::Block(block) if has_host_bits(block)));
    }),
    ("ipBlock of addresses of pods", 23, |o| {
        let pods = o.iter().filter_map(|o| if let Object::Pod(p) = o { Some(p) } else { None });
        let addresses = pods.flat_map(|pod| pod.ips.iter().collect::<Vec<_>>()).collect();
        blocks_without(o, addresses);
    }),
    ("ipBlock of addresses of Nodes", 3, |o| {
        let nodes = o.iter().filter_map(|o| if let Object::Node(n) = o { Some(n) } else { None });
        let addresses = nodes.flat_map(|n| n.internal_ips.iter().chain(&n.external_ips));
        let addresses = addresses.copied().collect();
        blocks_without(o, addresses);
    }),
    ("except: the whole block", 12, |o| {
        own_blocks(o, |block| {
            let cidr = block.cidr.trunc();
            let except = block.except.iter().filter(|except| !except.contains(&cidr));
            block.except = except.copied().collect();
        });
    }),
    ("except: of its own block only", 21, |o| {
        own_rules(o, |rule| {
            let blocks = || rule.peers.iter().filter_map(block_of);
            let except: Box<[IpNet]> = blocks().flat_map(|b| &b.except).copied().collect();
            for block in rule.peers.iter_mut().filter_map(block_of_mut) {
                block.except = except.clone();
            }
        });
    }),
    ("endPort: first port", 18, |o| {
        own_ranges(o, |first, last| (first.saturating_add(1), last));
    }),
    ("endPort: last port", 18, |o| own_ranges(o, |first, last| (first, last - 1))),
    ("endPort: ranges that meet", 13, |o| {
        own_rules(o, |rule| {
            let ends = ends_of_ranges(rule);
            for port in &mut rule.ports {
                if let PortSpec::Range(first, _) = port.ports
                    && ends.contains(&(port.protocol, first.get() - 1))
                {
                    port.ports = PortSpec::Invalid("".into());
                }
            }
        });
    }),
    ("endPort: one port between ranges", 4, |o| {
        own_rules(o, |rule| {
            let ends = ends_of_ranges(rule);
            for port in &mut rule.ports {
                if let PortSpec::Range(first, last) = port.ports
                    && ends.contains(&(port.protocol, first.get().saturating_sub(2)))
                    && let Some(first) = Port::new(first.get() - 1)
                {
                    port.ports = PortSpec::Range(first, last);
                }
            }
        });
    }),
    ("port: name, of ingress", 6, |o| own(o, |p| without_names(&mut p.ingress))),
    ("port: name, of egress", 5, |o| own(o, |p| without_names(&mut p.egress))),
];
