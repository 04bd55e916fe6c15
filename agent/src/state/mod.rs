//! The agent's state: what the API and the node reported, what follows from it, and which concerns
//! have work to do.
//!
//! In: [`Event`]s, and the observations that reconcilers share. Out: desired tables, state of
//! the node, dirty concerns, conditions. No I/O and no clock: the loop sets the time, [`State::set_now`],
//! and measures what may take long, [`State::apply`].
//!
//! Results of one reconciler that another depends on are stored here (`tables_written`,
//! `uplink`, ...); reconcilers never call each other.

pub mod conflict;
mod devices;
mod drops;
mod findings;
mod growth;
mod health_checks;
mod pod_mtu;
mod pods;
mod policies;
mod policy_problems;
mod programming;
mod repairs;
mod udp_sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;
use sluice_abi::FrontendKey;
use sluice_core::model::{Kind, Node};
use sluice_core::{Change, Changed, Changes, Index, NodeContext, Object, ObjectName, Tables};

use crate::api::Call;
use crate::conditions::{Concern, Conditions};
use crate::config::Config;
use crate::devices::NodeDevice;
use crate::devices::xdp::XdpState;
use crate::event::{Event, PodScope};
use crate::findings::Finding;
use crate::host::{HostState, Uplink};

use self::drops::Drops;
pub use self::drops::{Dropped, DroppedBy, DroppedPod};
use self::growth::Growth;
pub use self::growth::Rows;
pub use self::health_checks::HealthCheckPort;
use self::pod_mtu::PodMtus;
pub use self::pods::PodSelection;
use self::policies::PolicyState;
use self::programming::CAUSES;
pub use self::programming::Cause;

/// Every this many resyncs, the rows in the kernel are compared with the desired ones.
const RESYNCS_PER_COMPARISON: u32 = 10;

/// All state of the agent.
#[derive(Debug)]
pub struct State {
    config: Config,
    now: Instant,
    index: Index,
    context: NodeContext,
    context_changed: bool,
    tables: Tables,
    policy: PolicyState,
    drops: Drops,
    changed: Changed,
    host: HostState,
    uplink: Option<Uplink>,
    devices: Vec<NodeDevice>,
    attached: BTreeSet<u32>,
    xdp: BTreeMap<u32, XdpState>,
    dirty: BTreeSet<Concern>,
    resync: bool,
    resyncs: u32,
    compare_tables: bool,
    poll_maps: bool,
    tables_written: bool,
    takes_over: bool,
    growth: Growth,
    started: Instant,
    pins_replaced: Option<Instant>,
    ready: bool,
    sockets_changed: bool,
    poll_sockets: bool,
    pod_mtus: PodMtus,
    health_checks: BTreeMap<ObjectName, HealthCheckPort>,
    /// Which pods are compared when.
    pub pods: PodSelection,
    repairs: BTreeMap<&'static str, u64>,
    findings: Vec<Finding>,
    causes: Vec<Cause>,
    calls: Vec<Call>,
    stopped: bool,
    /// Current conditions.
    pub conditions: Conditions,
}

impl State {
    /// The state at start: nothing is known, and every concern is due.
    pub fn new(config: Config, now: Instant) -> State {
        State {
            index: Index::new(&config.node_name),
            context: NodeContext {
                service_cidrs: config.service_cidrs.clone(),
                node_ports: config.node_ports.clone(),
                ..NodeContext::default()
            },
            context_changed: false,
            tables: Tables::default(),
            policy: PolicyState::default(),
            drops: Drops::default(),
            changed: Changed::default(),
            host: HostState::default(),
            uplink: None,
            devices: Vec::new(),
            attached: BTreeSet::new(),
            xdp: BTreeMap::new(),
            dirty: BTreeSet::new(),
            resync: true,
            resyncs: 0,
            compare_tables: false,
            poll_maps: false,
            tables_written: false,
            takes_over: false,
            growth: Growth::default(),
            started: now,
            pins_replaced: None,
            ready: false,
            sockets_changed: false,
            poll_sockets: false,
            pod_mtus: PodMtus::default(),
            health_checks: BTreeMap::new(),
            pods: PodSelection::default(),
            repairs: BTreeMap::new(),
            findings: Vec::new(),
            causes: Vec::new(),
            calls: Vec::new(),
            stopped: false,
            conditions: Conditions::default(),
            config,
            now,
        }
    }

    /// Sets the time that conditions and retries refer to.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// The time that the loop set last.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Takes an event in and marks the concerns that it affects. `has_time` limits what may take long: drops
    /// are kept without a reason when it is false.
    pub fn apply(&mut self, event: Event, has_time: impl Fn() -> bool) {
        match event {
            Event::Objects(change) => {
                let change = match self.config.external_ips {
                    true => change,
                    false => change.without_external_ips(),
                };
                if self.affects_this_node(&change) {
                    // InternalIPs select the uplink, pod CIDRs are in the CNI configuration.
                    self.mark([Concern::HostState, Concern::Routes, Concern::CniFiles]);
                }
                self.report_invalid_addresses(&change);
                let cause = programming::cause(&change);
                let before = self.index.changes().endpoint_slices;
                self.index.apply(change);
                let changed = self.index.changes().endpoint_slices != before;
                self.causes.extend(cause.filter(|_| changed && self.causes.len() < CAUSES));
            }
            Event::HostNetwork => {
                use Concern::{Devices, Forwarding, HostState, Routes};
                self.mark([HostState, Devices, Forwarding, Routes]);
            }
            Event::PodNetwork(scope) => self.apply_pod_network(scope),
            Event::Forwarding => self.mark([Concern::Forwarding]),
            Event::Leases => {
                self.mark([Concern::Policy, Concern::Pods, Concern::PodNetns, Concern::HostPorts]);
                self.mark((!self.old_mtus().is_empty()).then_some(Concern::PodMtu));
                // CNI DEL has removed the hostPorts of its pod.
                self.compare_sockets();
            }
            Event::CniFiles => self.mark([Concern::CniFiles, Concern::OtherNetworks]),
            Event::Resync => {
                self.resyncs = self.resyncs.wrapping_add(1);
                let compare_all = self.resyncs.is_multiple_of(RESYNCS_PER_COMPARISON);
                self.compare_tables |= compare_all;
                self.check_policies(compare_all);
                self.resync = true;
                self.pods.add(PodScope::all());
            }
            Event::Poll => {
                self.mark([Concern::Pins, Concern::Devices, Concern::SocketPrograms]);
                self.mark(self.pods.poll.then_some(Concern::Pods));
                self.mark(self.poll_maps.then_some(Concern::ServiceMaps));
                self.mark(self.poll_sockets.then_some(Concern::StaleSockets));
                self.mark(self.polls_policies().then_some(Concern::Policy));
                self.report_policy_findings();
            }
            Event::Drops(packets) => self.add_drops(packets, has_time),
            Event::Call(call) => self.calls.push(call),
            Event::Stop => self.stopped = true,
        }
    }

    /// Marks the pods in `scope`, and the devices if one with programs is in it.
    fn apply_pod_network(&mut self, scope: PodScope) {
        let managed =
            |device: &NodeDevice| device.is_managed() && scope.devices.contains(&device.link.index);
        if self.devices.iter().any(managed) {
            self.mark([Concern::Devices, Concern::Forwarding]);
        }
        if self.pods.add(scope) {
            self.mark([Concern::Pods]);
        }
    }

    fn affects_this_node(&self, change: &Change) -> bool {
        match change {
            Change::Apply(Object::Node(node)) => node.name == self.config.node_name,
            Change::Delete(Kind::Node, name) => *name.name == *self.config.node_name,
            Change::Replace(kind, _) | Change::Retain(kind, _) => *kind == Kind::Node,
            _ => false,
        }
    }

    /// Compiles what changed since the last call, once every list has arrived. Policies are compiled by
    /// their reconciler, which knows the pods of this node.
    pub fn compile(&mut self) {
        self.note_policy_changes();
        if !self.index.synced() {
            return;
        }
        let mut dirty = self.index.take_dirty();
        dirty.nodes |= std::mem::take(&mut self.context_changed);
        if dirty.is_empty() {
            return;
        }
        self.update_health_checks(&dirty.services);
        let changed = self.tables.update(&self.index, &dirty, &self.context);
        if !changed.is_empty() {
            self.mark([Concern::ServiceMaps]);
        }
        if changed.routes || changed.networks {
            self.mark([Concern::Routes]);
        }
        // They contain the addresses that serve NodePorts.
        self.mark(changed.networks.then_some(Concern::HealthCheckPorts));
        // A NodePort hides a hostPort.
        let node_ports = changed.frontends.iter().any(FrontendKey::is_node_port);
        self.mark(node_ports.then_some(Concern::HostPorts));
        if changed.overlaps || !changed.conflicts.is_empty() {
            self.report_conflicts();
        }
        for key in &changed.conflicts {
            self.report_conflict(key, &dirty.services);
        }
        for (service, found) in &changed.among_pods {
            self.report_among_pods(service, *found);
        }
        self.changed.merge(changed);
    }

    /// Marks concerns as dirty: their reconcilers run in this or the next pass.
    pub fn mark(&mut self, concerns: impl IntoIterator<Item = Concern>) {
        self.dirty.extend(concerns);
    }

    /// Whether all concerns are due, at start and after [`Event::Resync`].
    pub fn take_resync(&mut self) -> bool {
        std::mem::take(&mut self.resync)
    }

    /// Whether a concern was marked since the last call.
    pub fn take_dirty(&mut self, concern: Concern) -> bool {
        self.dirty.remove(&concern)
    }

    /// Whether any concern is marked.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The configuration of the agent.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether every list that the tables depend on has arrived. Before that, an object that is not
    /// known may exist, and nothing may be written or deleted.
    pub fn synced(&self) -> bool {
        self.index.synced()
    }

    /// Whether this kind of object has been listed.
    pub fn listed(&self, kind: Kind) -> bool {
        self.index.listed(kind)
    }

    /// Changes of objects since the start.
    pub fn changes(&self) -> Changes {
        self.index.changes()
    }

    /// The Node object of this node.
    pub fn this_node(&self) -> Option<&Node> {
        self.index.this_node()
    }

    /// Whether load balancers may send to this node: until the Nodes are listed, and as long as its
    /// Node exists and is not about to be removed.
    pub fn node_eligible(&self) -> bool {
        !self.listed(Kind::Node) || self.this_node().is_some_and(|node| !node.leaving)
    }

    /// Pod CIDRs of this node.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default()
    }

    /// The desired tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Differences of the desired tables since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Whether the rows in the kernel have to be compared with the desired ones.
    pub fn take_comparison(&mut self) -> bool {
        std::mem::take(&mut self.compare_tables)
    }

    /// The node's network as it was read last.
    pub fn host(&self) -> &HostState {
        &self.host
    }

    /// Records what the node reports.
    pub fn observe_host(&mut self, host: HostState) {
        let local_addresses: Vec<_> = host.addresses.iter().map(|a| a.address).collect();
        if local_addresses != self.context.local_addresses {
            self.context.local_addresses = local_addresses;
            self.context_changed = true;
        }
        self.host = host;
        self.compile();
    }

    /// MTU of pods in bytes: the configured one, else the uplink's.
    pub fn pod_mtu(&self) -> Option<u32> {
        self.config.mtu.or(self.uplink.as_ref().map(|u| u.link.mtu))
    }

    /// Records that the tables are in the kernel, for the first time or again.
    pub fn set_tables_written(&mut self) {
        if !self.tables_written {
            self.tables_written = true;
            self.mark([Concern::Routes, Concern::NodeConfig, Concern::CniFiles]);
        }
    }

    /// Whether the tables were written since the agent started.
    pub fn tables_written(&self) -> bool {
        self.tables_written
    }

    /// Records that CNI ADD can succeed.
    pub fn set_ready(&mut self) {
        if !self.ready {
            self.ready = true;
            tracing::info!("ready: CNI ADD can succeed");
        }
    }

    /// Whether CNI ADD can succeed: it could once, and finds the pins.
    pub fn ready(&self) -> bool {
        self.ready && self.conditions.get(Concern::Pins).is_none()
    }

    /// Calls of the API that wait for a response.
    pub fn take_calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }

    /// Whether the agent received [`Event::Stop`].
    pub fn stopped(&self) -> bool {
        self.stopped
    }
}

#[cfg(test)]
mod tests;
