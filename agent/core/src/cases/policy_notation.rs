//! Clusters with policies as words, for the tests of section 8 of the contract.
//!
//! Selectors: `app=web,!old,tier,a!=b`; `*` selects everything. Peers: a selector of pods;
//! `@selector` of namespaces; `@selector/selector` of both; `10.0.0.0/8` or
//! `10.0.0.0/8-10.1.0.0/16,10.2.0.0/16` with exceptions; `nodes role=edge`. Ports: `TCP`, `TCP 80`,
//! `TCP 80-90`, `TCP http`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_abi::{PolicyDirection, proto};

use crate::generate;
use crate::index::{Index, PolicyDirty};
use crate::model::{
    Change, ClusterNetworkPolicy, ClusterRule, ContainerPort, IpBlock, LabelSelector, Namespace,
    NetworkPolicy, Node, Object, ObjectName, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule,
    Port, PortSpec, Protocol, Requirement, RuleAction, Subject, Tier, parse_cidr, parse_ip,
};
use crate::oracle::{Cluster, NewFlow, Sandbox, allows};
use crate::policy::{Judgement, LocalPod, Policies};

/// Objects, and the pods of this node.
#[derive(Clone, Default)]
pub struct World {
    pub objects: Vec<Object>,
    pub local: Vec<LocalPod>,
}

pub fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name)
}

pub fn selector(text: &str) -> LabelSelector {
    let requirement = |word: &str| {
        let (key, operator) = if let Some((key, value)) = word.split_once("!=") {
            (key, Operator::NotIn([value.into()].into()))
        } else if let Some((key, value)) = word.split_once('=') {
            (key, Operator::In([value.into()].into()))
        } else if let Some(key) = word.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else {
            (word, Operator::Exists)
        };
        Requirement { key: key.into(), operator }
    };
    text.split(',').filter(|word| *word != "*").map(requirement).collect()
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').expect("key=value");
        (key.to_owned(), value.to_owned())
    };
    text.split(',').filter(|word| !word.is_empty()).map(pair).collect()
}

fn peer(text: &str) -> PolicyPeer {
    if let Some(nodes) = text.strip_prefix("nodes ") {
        return PolicyPeer::Nodes(selector(nodes));
    }
    if let Some(namespaces) = text.strip_prefix('@') {
        let (namespaces, pods) = namespaces.split_once('/').unwrap_or((namespaces, "*"));
        let namespaces = Some(selector(namespaces));
        return PolicyPeer::Pods { namespaces, pods: selector(pods) };
    }
    let (cidr, except) = text.split_once('-').unwrap_or((text, ""));
    if let Ok(cidr) = cidr.parse() {
        let except = except.split(',').filter_map(parse_cidr).collect();
        return PolicyPeer::Block(IpBlock { cidr, except });
    }
    PolicyPeer::Pods { namespaces: None, pods: selector(text) }
}

fn protocol(word: &str) -> Protocol {
    Protocol::from_api(Some(word)).expect("a protocol")
}

fn port(text: &str) -> PolicyPort {
    let number = |text: &str| text.parse::<i64>().ok().and_then(Port::new);
    let (word, ports) = text.split_once(' ').unwrap_or((text, ""));
    let ports = match (number(ports), ports.split_once('-')) {
        _ if ports.is_empty() => PortSpec::All,
        (Some(port), _) => PortSpec::Number(port),
        (None, Some((first, last))) => {
            PortSpec::Range(number(first).expect("a port"), number(last).expect("a port"))
        }
        (None, None) => PortSpec::Name(ports.into()),
    };
    PolicyPort { protocol: protocol(word), ports }
}

/// A rule with peers and ports.
pub fn rule(peers: &[&str], ports: &[&str]) -> PolicyRule {
    PolicyRule {
        peers: peers.iter().map(|text| peer(text)).collect(),
        ports: ports.iter().map(|text| port(text)).collect(),
    }
}

/// A rule of a ClusterNetworkPolicy.
pub fn cluster_rule(action: RuleAction, peers: &[&str], ports: &[&str]) -> ClusterRule {
    ClusterRule { name: "".into(), action, matches: rule(peers, ports), invalid: None }
}

/// A ClusterNetworkPolicy for the pods that `subject`, `@selector/selector`, selects.
pub fn cluster(
    name: &str,
    (tier, priority): (Tier, u16),
    subject: &str,
    ingress: &[ClusterRule],
    egress: &[ClusterRule],
) -> ClusterNetworkPolicy {
    let (namespaces, pods) = subject
        .strip_prefix('@')
        .expect("@selector/selector")
        .split_once('/')
        .expect("@selector/selector");
    ClusterNetworkPolicy {
        name: name.into(),
        tier,
        priority,
        subject: Subject { namespaces: selector(namespaces), pods: selector(pods), invalid: None },
        ingress: ingress.into(),
        egress: egress.into(),
        uid: None,
    }
}

impl World {
    /// A cluster with one node, and the namespaces shop and test, each labelled with its name.
    pub fn new() -> World {
        let pod_cidrs = parse_cidr("10.244.0.0/16").into_iter().collect();
        let node = Node { name: "n1".into(), pod_cidrs, ..Node::default() };
        let world = World { objects: vec![Object::Node(node)], local: Vec::new() };
        world.namespace("shop", "name=shop").namespace("test", "name=test")
    }

    /// Adds or replaces an object.
    pub fn with(mut self, object: Object) -> World {
        self.objects.retain(|o| (o.kind(), o.name()) != (object.kind(), object.name()));
        self.objects.push(object);
        self
    }

    pub fn namespace(self, name: &str, text: &str) -> World {
        self.with(Object::Namespace(Namespace { name: name.into(), labels: labels(text) }))
    }

    /// A pod of this node, with labels and `name=TCP 80` as ports.
    pub fn pod(self, text: &str, of: &str, address: &str, ports: &[&str]) -> World {
        self.changed_pod(text, of, address, ports, |_| {})
    }

    pub fn changed_pod(
        mut self,
        text: &str,
        of: &str,
        address: &str,
        ports: &[&str],
        change: impl FnOnce(&mut Pod),
    ) -> World {
        let address = parse_ip(address).expect("an address");
        let port = |text: &&str| {
            let (name, port) = text.split_once('=').expect("name=port");
            let (word, number) = port.split_once(' ').expect("a protocol and a number");
            let port = Port::new(number.parse::<i64>().expect("a number")).expect("a port");
            ContainerPort { name: name.into(), protocol: protocol(word), port }
        };
        let mut pod = Pod {
            name: name(text),
            labels: labels(of).into_iter().collect(),
            ips: [address].into_iter().collect(),
            ports: ports.iter().map(port).collect(),
            ..Pod::default()
        };
        change(&mut pod);
        if !pod.host_network && !self.local.iter().any(|l| l.address == address) {
            let index = self.local.len() as u16;
            let name = Some(pod.name.clone());
            self.local.push(LocalPod { index, generation: 1, address, name, uid: None });
        }
        self.with(Object::Pod(pod))
    }

    /// The pod with an address is not one of this node.
    pub fn on_another_node(mut self, address: &str) -> World {
        self.local.retain(|pod| Some(pod.address) != parse_ip(address));
        self
    }

    pub fn policy(
        self,
        text: &str,
        pods: &str,
        ingress: Option<&[PolicyRule]>,
        egress: Option<&[PolicyRule]>,
    ) -> World {
        self.with(Object::NetworkPolicy(NetworkPolicy {
            name: name(text),
            pod_selector: selector(pods),
            ingress: ingress.map(Into::into),
            egress: egress.map(Into::into),
            ..NetworkPolicy::default()
        }))
    }

    pub fn cluster_policy(self, policy: ClusterNetworkPolicy) -> World {
        self.with(Object::ClusterNetworkPolicy(policy))
    }

    pub fn index(&self) -> Index {
        let mut index = Index::new("n1");
        self.objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        index
    }

    pub fn policies(&self) -> Policies {
        let mut policies = Policies::default();
        policies.update(&self.index(), &PolicyDirty::everything(), &self.local);
        policies
    }

    /// Address of a pod by its name, or an address.
    pub fn address(&self, end: &str) -> IpAddr {
        let is = |o: &&Object| matches!(o, Object::Pod(pod) if pod.name.to_string() == end);
        match self.objects.iter().find(is) {
            Some(Object::Pod(pod)) => pod.ips.iter().next().expect("an address"),
            _ => parse_ip(end).expect("a pod or an address"),
        }
    }

    /// Whether a flow passes: by the rows and by the oracle. `node` is a process of this node.
    pub fn allows(&self, source: &str, destination: &str, target: &str) -> bool {
        let own_node = source == "node";
        let source = if own_node { [172, 18, 0, 2].into() } else { self.address(source) };
        let destination = self.address(destination);
        let (word, port) = target.split_once(' ').unwrap_or((target, "0"));
        let protocol = if word == "ICMP" { proto::ICMP } else { protocol(word).number() };
        let port = port.parse().expect("a port");
        let rows = self.policies().rows();
        let side = |end: IpAddr, direction, peer| {
            let pod = self.local.iter().find(|pod| pod.address == end);
            pod.is_none_or(|pod| {
                rows.judge(pod, direction, peer, protocol, port) == Judgement::Pass
            })
        };
        let egress = side(source, PolicyDirection::Egress, destination);
        let ingress = own_node || side(destination, PolicyDirection::Ingress, source);
        let by_rows = source == destination || egress && ingress;
        let sandboxes: Vec<Sandbox> = self.local.iter().map(generate::sandbox).collect();
        let cluster = Cluster { objects: &self.objects, sandboxes: &sandboxes };
        let flow = NewFlow { source, destination, protocol, port, own_node };
        assert_eq!(by_rows, allows(cluster, flow), "{flow:?}: rows and oracle");
        by_rows
    }

    /// Expects flows to pass, or not to.
    pub fn expect(&self, passes: bool, flows: &[&str]) {
        for flow in flows {
            let (ends, target) = flow.split_once(": ").expect("source > destination: target");
            let (source, destination) = ends.split_once(" > ").expect("source > destination");
            assert_eq!(self.allows(source, destination, target), passes, "{flow}");
        }
    }
}
