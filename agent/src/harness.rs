//! The loop on a kernel in memory, for tests: events in, operations and conditions out.
//!
//! The node is `n1`: uplink `eth0` (index 2, MTU 1500, 172.18.0.2), pod CIDR 10.244.1.0/24. Time is
//! tokio's; tests pause it (`start_paused`), so that retries and resyncs take no real time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::Change;
use sluice_core::diff::Capacity;
use sluice_core::model::{
    Endpoint, EndpointPort, EndpointSlice, Kind, Node, Object, ObjectName, Port, Protocol, Service,
    ServicePort,
};
use sluice_pod::device::{Link, LinkLayer};
use sluice_pod::identity;
use sluice_pod::lease::{BootInstant, Lease, LeaseKey};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::conditions::{Concern, Condition, Status};
use crate::config::{self, Config};
use crate::event::Event;
use crate::event_loop::{EventLoop, Observer};
use crate::findings::{self, Finding};
use crate::host::{HostState, LocalAddress, RouteUse};
use crate::kernel::fake::FakeKernel;
use crate::reconcile::Reconcilers;
use crate::state::{Cause, State};

/// Long enough for the loop to take all waiting events, shorter than the first retry.
const IDLE_AFTER: Duration = Duration::from_millis(1);

/// The loop of node `n1`.
pub struct Harness {
    event_loop: EventLoop<FakeKernel>,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    findings: mpsc::Receiver<Finding>,
    programmed: Rc<RefCell<Vec<Cause>>>,
    config: Config,
}

/// Records the causes of changes that are programmed.
struct Recorder(Rc<RefCell<Vec<Cause>>>);

impl Observer for Recorder {
    fn programmed(&mut self, causes: &[Cause]) {
        self.0.borrow_mut().extend(causes);
    }

    fn observe(&mut self, _: &State, _: Duration) {}
}

impl Harness {
    /// A node on which the agent never ran.
    pub fn new() -> Harness {
        Harness::with(&[], FakeKernel::new(host()))
    }

    /// The agent starts with these flags on this node; without XDP unless they say so.
    pub fn with(flags: &[&str], kernel: FakeKernel) -> Harness {
        let without_xdp =
            (!flags.iter().any(|flag| flag.starts_with("--xdp"))).then_some(&"--xdp=off");
        let all: Vec<&str> = without_xdp.into_iter().chain(flags).copied().collect();
        Harness::start(config::of_flags(&all).unwrap(), kernel)
    }

    /// A node on which the agent never ran, with maps of these capacities, which cannot grow beyond
    /// the largest ones.
    pub fn with_capacity(capacity: Capacity, largest: Capacity) -> Harness {
        let mut harness = Harness::new();
        harness.set_capacity(capacity, largest);
        harness
    }

    /// The maps have these capacities, and cannot grow beyond the largest ones.
    pub fn set_capacity(&mut self, capacity: Capacity, largest: Capacity) {
        self.event_loop.state.set_capacity(capacity);
        self.event_loop.state.set_largest_capacity(largest);
        self.event_loop.kernel.capacity = capacity;
    }

    fn start(config: Config, kernel: FakeKernel) -> Harness {
        let (sender, events) = mpsc::channel(1024);
        let state = State::new(config.clone(), Instant::now().into_std());
        let reconcilers = Reconcilers::all();
        let (queue, findings) = findings::queue();
        let programmed = Rc::default();
        let observer = Box::new(Recorder(Rc::clone(&programmed)));
        let event_loop = EventLoop::new(state, kernel, reconcilers, observer).with_findings(queue);
        Harness { event_loop, sender, events, findings, programmed, config }
    }

    /// The agent ends, and starts again on the same node.
    pub fn restart(self) -> Harness {
        Harness::start(self.config, self.event_loop.kernel)
    }

    /// The tables of the loaded programs are empty, and programs of an earlier agent are attached.
    pub fn take_over_later(&mut self) {
        self.event_loop.state.take_over_later();
    }

    /// Measures the time that reasons of drops take by another clock.
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.event_loop.set_clock(clock);
    }

    /// The agent's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The node.
    pub fn kernel(&mut self) -> &mut FakeKernel {
        &mut self.event_loop.kernel
    }

    /// The agent's state.
    pub fn state(&self) -> &State {
        &self.event_loop.state
    }

    /// The agent's state.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.event_loop.state
    }

    /// A state at start with no concern marked.
    pub fn idle_state() -> State {
        let mut state = Harness::new().event_loop.state;
        state.take_resync();
        state
    }

    /// Runs the loop for some time; returns the operations.
    pub async fn run_for(&mut self, duration: Duration) -> Vec<String> {
        let run = self.event_loop.run(&mut self.events);
        let _elapsed = tokio::time::timeout(duration, run).await;
        self.event_loop.kernel.take_log()
    }

    /// Runs the loop until no event waits; returns the operations.
    pub async fn run_until_idle(&mut self) -> Vec<String> {
        self.run_for(IDLE_AFTER).await
    }

    /// Sends events without running the loop.
    pub fn queue(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.sender.try_send(event).unwrap());
    }

    /// Sends events and runs the loop; returns the operations.
    pub async fn send(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<String> {
        self.queue(events);
        self.run_until_idle().await
    }

    /// Sends one change of an object and runs the loop; returns the operations.
    pub async fn apply(&mut self, object: Object) -> Vec<String> {
        self.send([Event::Objects(Change::Apply(object))]).await
    }

    /// Starts the agent with node `n1`, and all lists given.
    pub async fn ready_with(objects: Vec<Object>) -> Harness {
        let mut harness = Harness::new();
        harness.send(lists(objects)).await;
        assert!(harness.state().ready(), "{:?}", harness.state().conditions);
        harness
    }

    /// Whether the loop ends by itself.
    pub async fn ends(&mut self) -> bool {
        let run = self.event_loop.run(&mut self.events);
        tokio::time::timeout(IDLE_AFTER, run).await.is_ok()
    }

    /// A condition.
    pub fn condition(&self, concern: Concern) -> Option<&Condition> {
        self.state().conditions.get(concern)
    }

    /// Problems of objects since the last call, as `NAME REASON: MESSAGE`.
    pub fn findings(&mut self) -> Vec<String> {
        let found = std::iter::from_fn(|| self.findings.try_recv().ok());
        found.map(|f| format!("{} {}: {}", f.object, f.reason, f.message)).collect()
    }

    /// The causes of changes that were programmed since the last call.
    pub fn programmed(&mut self) -> Vec<Cause> {
        self.programmed.take()
    }

    /// Status and message of a condition.
    #[track_caller]
    pub fn status(&self, concern: Concern) -> (Status, &str) {
        let condition = self.condition(concern).unwrap_or_else(|| panic!("{concern} is not set"));
        (condition.status, &condition.message)
    }
}

/// Devices and addresses of node `n1`.
pub fn host() -> HostState {
    HostState {
        links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")],
        addresses: vec![LocalAddress {
            address: "172.18.0.2".parse().unwrap(),
            ifindex: 2,
            additional: false,
        }],
        default_route: Some(2),
        route_uses: [(2, RouteUse { networks: true, addresses: false })].into(),
        ephemeral_ports: (32_768, 60_999),
        netns_cookie: 4711,
    }
}

/// A device that is up, with MTU 1500.
pub fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: None,
        alias: None,
        mtu: 1500,
        up: true,
        layer: LinkLayer::Ethernet,
        loopback: name == "lo",
        master: None,
        veth: false,
        vlan_of: None,
    }
}

/// What a source sends first: one list per kind. Node `n1` is added if the objects contain no Node.
pub fn lists(mut objects: Vec<Object>) -> Vec<Event> {
    if !objects.iter().any(|o| o.kind() == Kind::Node) {
        objects.push(node("n1", "172.18.0.2", "10.244.1.0/24"));
    }
    Change::lists(objects.iter()).into_iter().map(Event::Objects).collect()
}

/// A deletion.
pub fn delete(kind: Kind, name: &str) -> Event {
    let name = match name.split_once('/') {
        Some((namespace, name)) => ObjectName::new(namespace, name),
        None => ObjectName::cluster(name),
    };
    Event::Objects(Change::Delete(kind, name))
}

/// A Node.
pub fn node(name: &str, internal_ip: &str, pod_cidr: &str) -> Object {
    Object::Node(Node {
        name: name.to_owned(),
        internal_ips: vec![internal_ip.parse().unwrap()],
        pod_cidrs: pod_cidr.parse().into_iter().collect(),
        ..Node::default()
    })
}

/// A Service `shop/<name>` with port 80.
pub fn service(name: &str, protocol: Protocol, cluster_ip: &str, created: i64) -> Object {
    Object::Service(Service {
        name: ObjectName::new("shop", name),
        created,
        cluster_ips: [cluster_ip.parse().unwrap()].into(),
        ports: [ServicePort {
            name: "".into(),
            protocol,
            port: Port::new(80).unwrap(),
            node_port: None,
        }]
        .into(),
        ..Service::default()
    })
}

/// A Service `shop/<name>` with port 80 and a NodePort.
pub fn with_node_port(name: &str, protocol: Protocol, node_port: u16) -> Object {
    let mut object = service(name, protocol, "10.96.0.1", 1);
    if let Object::Service(service) = &mut object {
        service.ports.iter_mut().for_each(|port| port.node_port = Port::new(node_port));
    }
    object
}

/// The EndpointSlice of Service `shop/<name>`: pods with port 8080.
pub fn slice(name: &str, protocol: Protocol, addresses: &[&str]) -> Object {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node_name: None,
        hints: None,
        target: None,
    };
    Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new("shop", name),
        service: Some(name.into()),
        ports: [EndpointPort { name: "".into(), protocol, port: Port::new(8080) }].into(),
        endpoints: addresses.iter().map(endpoint).collect(),
        ..EndpointSlice::default()
    })
}

/// A TCP Service and its slice.
pub fn web(addresses: &[&str]) -> Vec<Object> {
    vec![service("web", Protocol::Tcp, "10.96.0.1", 1), slice("web", Protocol::Tcp, addresses)]
}

/// The lease of pod `shop/pod-<n>` with address 10.244.1.<n>, and the host end of its veth pair with
/// index 100 + n.
pub fn pod(n: u8) -> (Lease, Link) {
    let key = LeaseKey { container_id: format!("c{n}"), ifname: "eth0".to_owned() };
    let lease = Lease {
        address: [10, 244, 1, n].into(),
        index: n.into(),
        generation: 0x1000 + u32::from(n),
        network: "sluice".to_owned(),
        pod_namespace: Some("shop".to_owned()),
        pod_name: Some(format!("pod-{n}")),
        pod_uid: None,
        netns: format!("/run/netns/{n}"),
        host_ifname: identity::host_ifname(&key),
        since: BootInstant { boot_id: "boot".to_owned(), seconds: 10 },
        host_ports: Some(Vec::new()),
        netns_cookie: None,
        key,
    };
    let veth = link(100 + u32::from(n), &lease.host_ifname);
    (lease, veth)
}
