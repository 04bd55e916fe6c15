//! Time and rows of the policies of a node:
//! `cargo run --release -p sluice-core --example policy -- [pods] [policies] [rules on one pod]`.
//!
//! Every 45th pod runs on this node. Each policy selects the pods of one application and allows three
//! others, by labels, by a namespace, and by a block.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_abi::PolicyDirection;
use sluice_core::model::{
    Change, ContainerPort, IpBlock, Kind, LabelSelector, Labels, Namespace, NetworkPolicy, Node,
    Object, ObjectName, Pod, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec, Protocol,
    Requirement, parse_cidr,
};
use sluice_core::policy::{KnownPods, LocalPod, Policies, Query, Step, Verdict};
use sluice_core::{Index, PolicyDirty};

const NAMESPACES: u32 = 50;
/// Pods of an application.
const REPLICAS: u32 = 10;
/// One of how many pods runs on this node.
const NODES: u32 = 45;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse().ok());
    let mut number = |default: u32| numbers.next().flatten().unwrap_or(default);
    let (pods, policies, rules) = (number(5_000), number(1_000), number(12_500));
    println!("{pods} pods, {} of this node, {policies} policies", pods.div_ceil(NODES));
    let apps = pods.div_ceil(REPLICAS).max(1);

    let mut index = Index::new("n0");
    let mut local = Vec::new();
    for n in 0..NAMESPACES {
        let labels = BTreeMap::from([("team".to_owned(), format!("t{}", n % 10))]);
        let namespace = Namespace { name: format!("ns-{n}"), labels };
        index.apply(Change::Apply(Object::Namespace(namespace)));
    }
    for n in 0..NODES {
        let pod_cidrs = parse_cidr(&format!("10.{n}.0.0/16")).into_iter().collect();
        let node = Node { name: format!("n{n}"), pod_cidrs, ..Node::default() };
        index.apply(Change::Apply(Object::Node(node)));
    }
    for n in 0..pods {
        let pod = pod(n, n / REPLICAS);
        if n % NODES == 0 {
            let (index, generation) = ((n / NODES) as u16, 1);
            let (address, name) = (address(n), Some(pod.name.clone()));
            local.push(LocalPod { index, generation, address, name, uid: None });
        }
        index.apply(Change::Apply(Object::Pod(pod)));
    }
    for n in 0..policies {
        index.apply(Change::Apply(Object::NetworkPolicy(policy(n, apps))));
    }
    println!("objects: {}", memory());
    let mut compiled = Policies::default();
    update("from nothing", &mut compiled, &mut index, &local);
    println!("compiled: {}", memory());
    let took = timed(|| drop(compiled.update(&index, &PolicyDirty::everything(), &local)));
    println!("{:<28}{took:>12.1?}   all objects, no change", "everything again");

    rounds("pod with another label", &mut compiled, &mut index, &local, |round| {
        Change::Apply(Object::Pod(pod(round * 7 % pods, (round * 13 + 1) % apps)))
    });
    rounds("policy with another rule", &mut compiled, &mut index, &local, |round| {
        let n = round * 11 % policies.max(1);
        let name = policy(n, apps).name;
        Change::Apply(Object::NetworkPolicy(NetworkPolicy { name, ..policy(n + round, apps) }))
    });
    rounds("namespace with another label", &mut compiled, &mut index, &local, |round| {
        let labels = BTreeMap::from([("team".to_owned(), format!("t{}", round % 11))]);
        let name = format!("ns-{}", round % NAMESPACES);
        Change::Apply(Object::Namespace(Namespace { name, labels }))
    });

    println!("{rules} rules on one pod");
    let mut subject = pod(0, 0);
    subject.labels = [("many", "rules")].into_iter().collect();
    index.apply(Change::Apply(Object::Pod(subject)));
    let many = |changed: u32| {
        let rule = |n: u32| PolicyRule {
            peers: [match n % 2 {
                0 => PolicyPeer::Block(IpBlock { cidr: host(n, changed), except: [].into() }),
                _ => pods_with("app", format!("app-{}", n % apps), Some(LabelSelector::default())),
            }]
            .into(),
            ports: port(1024 + n % 1000).into_iter().collect(),
        };
        let ingress = Some((0..rules).map(rule).collect());
        let name = ObjectName::new("ns-0", "many");
        let pod_selector = selector("many", "rules".into());
        Object::NetworkPolicy(NetworkPolicy { name, pod_selector, ingress, ..Default::default() })
    };
    index.apply(Change::Apply(many(0)));
    update("all rules", &mut compiled, &mut index, &local);
    rounds("one rule of them", &mut compiled, &mut index, &local, |round| {
        Change::Apply(many(round + 1))
    });
    rounds("pod with another label", &mut compiled, &mut index, &local, |round| {
        Change::Apply(Object::Pod(pod(1 + round * 7 % pods, (round * 13 + 1) % apps)))
    });
    index.apply(Change::Delete(Kind::NetworkPolicy, ObjectName::new("ns-0", "many")));
    println!("{rules} policies of one rule on one pod");
    let one = |n: u32, changed: u32| {
        let block = PolicyPeer::Block(IpBlock { cidr: host(n, changed), except: [].into() });
        let ports = port(1024 + n % 1000).into_iter().collect();
        let rules = Some([PolicyRule { peers: [block].into(), ports }].into());
        let name = ObjectName::new("ns-0", format!("one-{n}"));
        let pod_selector = selector("many", "rules".into());
        let (ingress, egress) = (rules.clone(), rules);
        Object::NetworkPolicy(NetworkPolicy {
            name,
            pod_selector,
            ingress,
            egress,
            ..Default::default()
        })
    };
    (0..rules).for_each(|n| index.apply(Change::Apply(one(n, 0))));
    update("all policies", &mut compiled, &mut index, &local);
    rounds("one policy of them", &mut compiled, &mut index, &local, |round| {
        Change::Apply(one(0, round + 1))
    });
    rounds("one policy less or more", &mut compiled, &mut index, &local, |round| match round % 2 {
        0 => Change::Delete(Kind::NetworkPolicy, ObjectName::new("ns-0", "one-1")),
        _ => Change::Apply(one(1, 0)),
    });
    rounds("address of a pod of theirs", &mut compiled, &mut index, &local, |round| {
        let ips = [address(0)].into_iter().filter(|_| round % 2 == 0).collect();
        let labels = [("many", "rules")].into_iter().collect();
        Change::Apply(Object::Pod(Pod { ips, labels, ..pod(0, 0) }))
    });
    let mut found = 0;
    for what in ["findings", "findings after one policy"] {
        let took = timed(|| found = compiled.findings(&index, KnownPods::OfCluster).len());
        println!("{what:<28}{took:>12.1?}   {found} problems");
        index.apply(Change::Apply(one(0, 0)));
        let dirty = index.take_policy_dirty();
        compiled.update(&index, &dirty, &local);
    }
    let query = Query {
        pod: ObjectName::new("ns-0", "pod-0"),
        direction: PolicyDirection::Ingress,
        peer: address(1),
        protocol: 6,
        port: 80,
    };
    let mut explained = None;
    let took = timed(|| explained = Some(compiled.explain(&index, &query).verdict));
    let near = match explained {
        Some(Verdict::Denied(near)) => near.into_iter().next().map(|miss| miss.text),
        _ => None,
    };
    println!("{:<28}{took:>12.1?}   {}", "reason of a denied flow", near.unwrap_or_default());
    println!("{}", memory());
}

fn update(what: &str, compiled: &mut Policies, index: &mut Index, local: &[LocalPod]) {
    let dirty = index.take_policy_dirty();
    let mut steps = Vec::new();
    let took = timed(|| steps = compiled.update(index, &dirty, local));
    let rows = compiled.rows();
    println!(
        "{what:<28}{took:>12.1?}   {} steps; {} classes, {} networks, {} peers, {} ports, {} pods",
        steps.len(),
        rows.classes.len(),
        rows.networks.len(),
        rows.peers.len(),
        rows.ports.len(),
        rows.pods.len()
    );
}

/// Many changes of one kind: the median, the 99th percentile, and the rows that are written.
fn rounds(
    what: &str,
    compiled: &mut Policies,
    index: &mut Index,
    local: &[LocalPod],
    change: impl Fn(u32) -> Change,
) {
    const ROUNDS: u32 = 200;
    let (mut times, mut rows) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        index.apply(change(round));
        let dirty = index.take_policy_dirty();
        let mut steps: Vec<Step> = Vec::new();
        times.push(timed(|| steps = compiled.update(index, &dirty, local)));
        let writes = steps.iter().flat_map(|step| step.writes(0, &Default::default()));
        rows += writes.map(|write| write.len()).sum::<usize>();
    }
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!(
        "{what:<28}{:>12.1?}   p99 {:.1?}, {:.1} rows",
        at(50),
        at(99),
        rows as f64 / f64::from(ROUNDS)
    );
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0002 + ((n % NODES) << 16) + n / NODES).into()
}

fn host(n: u32, changed: u32) -> ipnet::IpNet {
    let n = if n == 0 { 0x10_0000 + changed } else { n };
    IpAddr::from(Ipv4Addr::from(0xc000_0000 + n)).into()
}

fn port(n: u32) -> Option<PolicyPort> {
    let ports = PortSpec::Number(Port::new(n)?);
    Some(PolicyPort { protocol: Protocol::Tcp, ports })
}

fn selector(key: &str, value: String) -> LabelSelector {
    [Requirement::equals(key, value)].into_iter().collect()
}

fn pods_with(key: &str, value: String, namespaces: Option<LabelSelector>) -> PolicyPeer {
    PolicyPeer::Pods { namespaces, pods: selector(key, value) }
}

/// Pod `n` with the labels of an application.
fn pod(n: u32, app: u32) -> Pod {
    let labels = [
        ("app", format!("app-{app}")),
        ("tier", format!("tier-{}", app % 3)),
        ("pod-template-hash", format!("5d{app}")),
    ];
    let http = |port| ContainerPort { name: "http".into(), protocol: Protocol::Tcp, port };
    Pod {
        name: ObjectName::new(format!("ns-{}", n / REPLICAS % NAMESPACES), format!("pod-{n}")),
        labels: labels.into_iter().collect::<Labels>(),
        ips: [address(n)].into_iter().collect(),
        ports: Port::new(8080 + app % 2).map(http).into_iter().collect(),
        ..Pod::default()
    }
}

fn policy(n: u32, apps: u32) -> NetworkPolicy {
    let app = n % apps;
    let web = [
        pods_with("app", format!("app-{}", (n * 7 + 1) % apps), Some(LabelSelector::default())),
        PolicyPeer::Pods {
            namespaces: Some(selector("team", format!("t{}", n % 10))),
            pods: selector("tier", format!("tier-{}", n % 3)),
        },
    ];
    let named = PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::Name("http".into()) };
    let block = parse_cidr(&format!("192.{}.{}.0/24", n / 256 % 256, n % 256));
    let block = block.map(|cidr| PolicyPeer::Block(IpBlock { cidr, except: [].into() }));
    let outside = block.into_iter().collect();
    NetworkPolicy {
        name: ObjectName::new(format!("ns-{}", app % NAMESPACES), format!("policy-{n}")),
        pod_selector: selector("app", format!("app-{app}")),
        ingress: Some([PolicyRule { peers: web.into(), ports: [named].into() }].into()),
        egress: Some(
            [PolicyRule { peers: outside, ports: port(443).into_iter().collect() }].into(),
        ),
        ..NetworkPolicy::default()
    }
}

/// Resident memory of this process.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    format!("resident {}", line.unwrap_or("unknown").trim())
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
