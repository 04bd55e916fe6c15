//! NetworkPolicy and ClusterNetworkPolicy, from the API documentation and from sections 8 and 9 of the
//! contract.

mod cluster;

use std::net::IpAddr;

use crate::model::{
    LabelSelector, Namespace, NetworkPolicy, Object, ObjectName, Pod, PolicyPeer, PolicyPort,
    PolicyRule, PortSpec, Tier, Uid,
};

/// A pod of the node, as its CNI plugin made it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Address.
    pub address: IpAddr,
    /// Namespace and name; `None`: it does not belong to Kubernetes.
    pub name: Option<ObjectName>,
    /// UID of its Pod object, if it is known.
    pub uid: Option<Uid>,
}

/// Everything that verdicts of a node depend on.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// The objects.
    pub objects: &'a [Object],
    /// The pods of the node.
    pub sandboxes: &'a [Sandbox],
}

/// A new flow, after the translation of Services and before that of sources.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// Client.
    pub source: IpAddr,
    /// Server.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
    /// Whether a process of the node opens it.
    pub own_node: bool,
}

/// Direction as seen by the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The pod opens the flow.
    Egress,
    /// The pod receives the flow.
    Ingress,
}

/// Whether the node lets a flow pass: both ends that are pods of the node must allow it. A pod always
/// reaches its own address, and the node its pods.
pub fn allows(cluster: Cluster<'_>, flow: NewFlow) -> bool {
    if flow.source == flow.destination {
        return true;
    }
    let sandbox = |address| cluster.sandboxes.iter().find(|s| s.address == address);
    let egress = sandbox(flow.source).is_none_or(|sandbox| {
        side_allows(cluster, sandbox, Side::Egress, flow.destination, flow.protocol, flow.port)
    });
    let ingress = sandbox(flow.destination).is_none_or(|sandbox| {
        let (protocol, port) = (flow.protocol, flow.port);
        flow.own_node || side_allows(cluster, sandbox, Side::Ingress, flow.source, protocol, port)
    });
    egress && ingress
}

/// Whether a pod of the node may send to or receive from a peer.
pub fn side_allows(
    cluster: Cluster<'_>,
    sandbox: &Sandbox,
    side: Side,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> bool {
    let Some(name) = &sandbox.name else { return true };
    let policies: Vec<&NetworkPolicy> =
        cluster.policies().filter(|policy| policy.name.namespace == name.namespace).collect();
    let Some(pod) = cluster.pod_of(sandbox) else {
        return policies.is_empty() && !cluster.may_be_subject(name);
    };
    let flow = Flow { pod, side, peer, protocol, port };
    let Some(admin) = cluster.rules(flow, Tier::Admin) else { return false };
    let Some(baseline) = cluster.rules(flow, Tier::Baseline) else { return false };
    let selected = policies
        .into_iter()
        .filter(|policy| policy.pod_selector.matches(|key| pod.labels.get(key)));
    let isolating: Vec<(&NetworkPolicy, &[PolicyRule])> = selected
        .filter_map(|policy| {
            let rules = if side == Side::Egress { &policy.egress } else { &policy.ingress };
            Some((policy, &**rules.as_ref()?))
        })
        .collect();
    let own = || {
        isolating.iter().any(|(policy, rules)| {
            rules.iter().any(|rule| {
                let from = rule.peers.is_empty()
                    || rule.peers.iter().any(|p| cluster.is_peer(policy, p, peer));
                from && (rule.ports.is_empty()
                    || rule.ports.iter().any(|p| is_port(p, protocol, port, &cluster.named(flow))))
            })
        })
    };
    // Which rules match is not known of every peer: the flow must pass in each case.
    cluster.all_cases(flow, &admin, &|| {
        if isolating.is_empty() { cluster.all_cases(flow, &baseline, &|| true) } else { own() }
    })
}

/// One side of a flow.
#[derive(Clone, Copy)]
struct Flow<'a> {
    pod: &'a Pod,
    side: Side,
    peer: IpAddr,
    protocol: u8,
    port: u16,
}

/// Whether an entry of `ports` matches; `pods` have the named ports.
fn is_port(entry: &PolicyPort, protocol: u8, port: u16, pods: &[&Pod]) -> bool {
    entry.protocol.number() == protocol
        && match &entry.ports {
            PortSpec::All => true,
            PortSpec::Number(number) => number.get() == port,
            PortSpec::Range(first, last) => first.get() <= port && port <= last.get(),
            PortSpec::Name(name) => {
                !pods.is_empty()
                    && pods.iter().all(|pod| {
                        pod.ports.iter().any(|p| {
                            p.name == *name && p.protocol == entry.protocol && p.port.get() == port
                        })
                    })
            }
            PortSpec::Invalid(_) => false,
        }
}

impl<'a> Cluster<'a> {
    fn policies(self) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.objects.iter().filter_map(|o| match o {
            Object::NetworkPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    fn pods(self) -> impl Iterator<Item = &'a Pod> {
        self.objects.iter().filter_map(|o| match o {
            Object::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    /// The Pod object of a pod of the node. A Pod with another UID has the same name only.
    fn pod_of(self, sandbox: &Sandbox) -> Option<&'a Pod> {
        let name = sandbox.name.as_ref()?;
        self.pods().find(|pod| {
            let other = pod.uid.is_some() && sandbox.uid.is_some() && pod.uid != sandbox.uid;
            pod.name == *name && !other
        })
    }

    /// The pods with an address that policies can select. The node itself decides about the addresses of
    /// its pods; a pod that terminates precedes none.
    fn owners(self, address: IpAddr) -> Vec<&'a Pod> {
        let selectable = |pod: &&Pod| !pod.host_network && !pod.phase.is_over();
        if let Some(sandbox) = self.sandboxes.iter().find(|s| s.address == address) {
            return self.pod_of(sandbox).filter(selectable).into_iter().collect();
        }
        let pods = self.pods().filter(selectable).filter(|p| p.ips.iter().any(|ip| ip == address));
        let (ending, alive): (Vec<&Pod>, Vec<&Pod>) = pods.partition(|pod| pod.terminating);
        if alive.is_empty() { ending } else { alive }
    }

    /// Whether an entry of `from` or `to` matches an address.
    fn is_peer(self, policy: &NetworkPolicy, peer: &PolicyPeer, address: IpAddr) -> bool {
        match peer {
            PolicyPeer::Invalid(_) | PolicyPeer::Nodes(_) => false,
            PolicyPeer::Block(block) => {
                block.cidr.contains(&address)
                    && !block.except.iter().any(|except| except.contains(&address))
            }
            PolicyPeer::Pods { namespaces, pods } => {
                let owners = self.owners(address);
                if owners.is_empty() {
                    // A pod that is not known yet.
                    let every =
                        pods.is_empty() && namespaces.as_ref().is_some_and(|n| n.is_empty());
                    return every && self.in_pod_range(address);
                }
                owners.iter().all(|pod| {
                    let namespace = &pod.name.namespace;
                    let in_namespace = match namespaces {
                        None => *namespace == policy.name.namespace,
                        Some(selector) => self.is_in(namespace, selector),
                    };
                    in_namespace && pods.matches(|key| pod.labels.get(key))
                })
            }
        }
    }

    /// Whether a selector matches a namespace. The labels of an unknown one are not known.
    fn is_in(self, namespace: &str, selector: &LabelSelector) -> bool {
        selector.is_empty()
            || self
                .namespace(namespace)
                .is_some_and(|n| selector.matches(|key| n.labels.get(key).map(String::as_str)))
    }

    fn namespace(self, name: &str) -> Option<&'a Namespace> {
        self.objects.iter().find_map(|o| match o {
            Object::Namespace(n) if n.name == name => Some(n),
            _ => None,
        })
    }

    /// The pods whose port names count.
    fn named(self, flow: Flow<'a>) -> Vec<&'a Pod> {
        match flow.side {
            Side::Ingress => vec![flow.pod],
            Side::Egress => self.owners(flow.peer),
        }
    }

    fn in_pod_range(self, address: IpAddr) -> bool {
        self.objects.iter().any(|o| match o {
            Object::Node(node) => node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)),
            _ => false,
        })
    }
}
