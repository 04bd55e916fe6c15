//! The state of this node, and the steps that bring the kernel in line with it.
//!
//! In: [`Event`]s, which only mark what there is to do. Then a round does it, in this order:
//! facts of the node, tables, routes, configuration, pods, CNI files. Each step may be repeated;
//! one that fails is told and tried again, and does not keep the others from being done, but for
//! what builds on it: nothing is deleted before every list has arrived, and the CNI configuration
//! is written last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use sluice_abi::{Addr, NodeConfig, node_flags};
use sluice_core::model::{Kind, PodPhase};
use sluice_core::{Changed, Index, ObjectName, Programmed, Surroundings, Tables};

use crate::config::{Config, Source};
use crate::control::Question;
use crate::dataplane::attach::Hooks;
use crate::dataplane::maps::Maps;
use crate::dataplane::{read_back, writer};
use crate::event_loop::Event;
use crate::host::routes::{Hop, Routes};
use crate::host::{Facts, Host, Uplink};
use crate::observe::{Health, Pending};
use crate::{answers, cni_files, endpoints, host, sockets};

/// The gateway that pods see (RFC 3927 link-local, the same on every node).
const POD_GATEWAY: [u8; 4] = [169, 254, 1, 1];

/// What the node's state works on.
pub struct Parts {
    /// Routing tables.
    pub host: Host,
    /// Hooks of devices.
    pub hooks: Hooks,
    /// The kernel's tables.
    pub maps: Maps,
    /// What probes see.
    pub health: Arc<Health>,
}

/// What there is to do.
#[derive(Debug, Default)]
struct Todo {
    facts: bool,
    tables: bool,
    routes: bool,
    pods: bool,
    reclaim: bool,
    files: bool,
}

/// The subjects that something can be wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Network,
    Tables,
    Capacity,
    Conflicts,
    Routes,
    Forwarding,
    Configuration,
    Pods,
    Leases,
    Files,
}

/// All state of the agent.
pub struct Node {
    config: Config,
    parts: Parts,
    index: Index,
    tables: Tables,
    programmed: Programmed,
    facts: Facts,
    uplink: Option<Uplink>,
    surroundings: Surroundings,
    todo: Todo,
    nodes_dirty: bool,
    /// Changes of tables that could not be written yet.
    unwritten: Changed,
    tables_written: bool,
    problems: BTreeMap<Subject, String>,
    questions: Vec<Question>,
}

impl Node {
    /// Starts from what the kernel's tables hold.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(config: Config, parts: Parts) -> anyhow::Result<Node> {
        let started = Instant::now();
        let found = read_back::read_back(&parts.maps)?;
        tracing::info!(
            frontends = found.frontends.len(),
            backends = found.backends.len(),
            networks = found.networks.len(),
            took = ?started.elapsed(),
            "tables read back"
        );
        Ok(Node {
            index: Index::new(&config.node_name),
            tables: Tables::default(),
            programmed: Programmed::new(found),
            facts: Facts::default(),
            uplink: None,
            surroundings: Surroundings::default(),
            todo: Todo::default(),
            nodes_dirty: false,
            unwritten: Changed::default(),
            tables_written: false,
            problems: BTreeMap::new(),
            questions: Vec::new(),
            config,
            parts,
        })
    }

    /// Marks what an event gives to do.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Objects(change) => {
                self.index.apply(change);
                self.todo.tables = true;
                self.todo.routes = true;
            }
            Event::Network => {
                self.todo.facts = true;
                self.todo.routes = true;
            }
            Event::Leases => self.todo.pods = true,
            Event::CniFiles => self.todo.files = true,
            Event::Clock => {
                self.todo = Todo {
                    facts: true,
                    tables: true,
                    routes: true,
                    pods: true,
                    reclaim: true,
                    files: true,
                };
            }
            Event::Question(question) => self.questions.push(question),
            Event::Stop => {}
        }
    }

    /// Does what there is to do. False if something has to be tried again.
    pub async fn round(&mut self) -> bool {
        let started = Instant::now();
        if self.todo.facts || !self.problems.is_empty() {
            self.read_facts().await;
        }
        if self.todo.tables || !self.unwritten.is_empty() {
            self.write_tables();
        }
        if self.todo.routes || self.problems.contains_key(&Subject::Routes) {
            self.write_routes().await;
        }
        self.write_configuration();
        if self.todo.pods || self.problems.contains_key(&Subject::Pods) {
            self.repair_pods();
        }
        if self.todo.reclaim && self.index.synced() && self.index.listed(Kind::Pod) {
            self.reclaim_leases();
        }
        self.write_files();
        self.todo = Todo::default();
        self.tell_health(started);
        // Conflicts are the cluster's to solve: trying again does not help.
        !self.problems.keys().any(|s| !matches!(s, Subject::Conflicts | Subject::Capacity))
    }

    /// Records the outcome of a step, logging what is new.
    fn outcome(&mut self, subject: Subject, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.problems.remove(&subject).is_some() {
                    tracing::info!(?subject, "well again");
                }
            }
            Err(text) => {
                if self.problems.get(&subject) != Some(&text) {
                    tracing::warn!(?subject, error = %text, "will be tried again");
                    self.problems.insert(subject, text);
                }
            }
        }
    }

    async fn read_facts(&mut self) {
        let facts = match self.parts.host.facts().await {
            Ok(facts) => facts,
            Err(e) => return self.outcome(Subject::Network, Err(chain(&e))),
        };
        let internal = self.index.this_node().map(|n| n.internal_ips.clone()).unwrap_or_default();
        let uplink = facts.uplink(&self.config.uplink, &internal);
        let local_addresses = facts.addresses.iter().map(|a| a.address).collect();
        let surroundings = Surroundings { local_addresses, ..self.surroundings.clone() };
        if surroundings != self.surroundings {
            self.surroundings = surroundings;
            self.index_dirty_nodes();
        }
        self.facts = facts;
        match uplink {
            Ok(uplink) => self.use_uplink(uplink),
            // Before the Node is known there may be nothing to go by: not worth a word.
            Err(_) if self.index.this_node().is_none() => {}
            Err(e) => self.outcome(Subject::Network, Err(chain(&e))),
        }
    }

    fn index_dirty_nodes(&mut self) {
        self.todo.tables = true;
        self.todo.routes = true;
        self.nodes_dirty = true;
    }

    fn use_uplink(&mut self, uplink: Uplink) {
        let before = self.uplink.as_ref().map(|u| u.link.index);
        let moved = before.is_some_and(|b| b != uplink.link.index);
        if let (true, Some(before)) = (moved, before) {
            self.parts.hooks.clear_device(before);
        }
        let attached = self.parts.hooks.uplink(uplink.link.index);
        if self.uplink.as_ref() != Some(&uplink) {
            tracing::info!(
                device = %uplink.link.name,
                mtu = uplink.link.mtu,
                v4 = ?uplink.v4,
                v6 = ?uplink.v6,
                "uplink"
            );
        }
        let forwarding = host::sysctl::enable_forwarding(Some(&uplink.link.name));
        self.uplink = Some(uplink);
        self.outcome(Subject::Network, attached.map(drop).map_err(|e| chain(&e)));
        self.outcome(Subject::Forwarding, forwarding.map_err(|e| chain(&e)));
    }

    fn write_tables(&mut self) {
        if !self.index.synced() {
            return;
        }
        let mut dirty = self.index.take_dirty();
        dirty.nodes |= std::mem::take(&mut self.nodes_dirty);
        let changed = self.tables.update(&self.index, &dirty, &self.surroundings);
        self.unwritten.frontends.extend(changed.frontends);
        self.unwritten.networks.extend(changed.networks);
        self.unwritten.routes |= changed.routes;
        if self.tables_written && self.unwritten.is_empty() && !self.capacity_wants() {
            return;
        }
        let result = self.carry_out();
        self.tables_written |= result.is_ok();
        self.outcome(Subject::Tables, result);
        let conflicts: Vec<String> =
            self.tables.conflicts().map(|c| answers::conflict(&c)).collect();
        let told = if conflicts.is_empty() { Ok(()) } else { Err(conflicts.join("; ")) };
        self.outcome(Subject::Conflicts, told);
    }

    fn capacity_wants(&self) -> bool {
        self.problems.contains_key(&Subject::Capacity)
    }

    /// Plans and writes, once more at once if that makes room.
    fn carry_out(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            let plan = self.programmed.plan(&self.tables, &self.unwritten);
            if let Err(e) = writer::apply(&self.parts.maps, &plan.ops) {
                match read_back::read_back(&self.parts.maps) {
                    Ok(found) => self.programmed.resync(found),
                    Err(e) => tracing::warn!(error = %chain(&e), "tables not read back"),
                }
                return Err(chain(&e));
            }
            if !plan.ops.is_empty() {
                tracing::info!(ops = plan.ops.len(), "tables written");
            }
            self.unwritten = Changed::default();
            let state_dir = &self.config.cni_state_dir;
            sockets::end_stale_udp(&plan.stale_udp, || endpoints::namespaces(state_dir));
            let again = plan.worth_retrying();
            let refused: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
            let told = if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) };
            self.outcome(Subject::Capacity, told);
            if !again {
                break;
            }
        }
        Ok(())
    }

    async fn write_routes(&mut self) {
        // Routes of nodes that are only not listed yet must not go.
        if !self.index.listed(Kind::Node) || !self.tables_written {
            return;
        }
        let mut desired: Routes =
            self.tables.routes().iter().map(|(net, hop)| (*net, Hop::Via(*hop))).collect();
        desired.extend(self.pod_cidrs().into_iter().map(|net| (net, Hop::Unreachable)));
        let result = match self.parts.host.sync_routes(&desired).await {
            Ok(synced) => {
                if synced.written + synced.removed > 0 {
                    tracing::info!(written = synced.written, removed = synced.removed, "routes");
                }
                let refused: Vec<String> =
                    synced.refused.iter().map(|(net, why)| format!("{net}: {why}")).collect();
                if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
            }
            Err(e) => Err(chain(&e)),
        };
        self.outcome(Subject::Routes, result);
    }

    /// The node's own pod ranges, as its Node object says.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default()
    }

    /// MTU of pods in bytes.
    pub fn mtu(&self) -> Option<u32> {
        self.config.mtu.or(self.uplink.as_ref().map(|u| u.link.mtu))
    }

    /// Tells the programs what they must know of the node. Once ready they stay so: an agent that
    /// starts again changes nothing for pods that run.
    fn write_configuration(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        let result = (|| {
            let now = self.parts.maps.node_config.lookup(&0)?.unwrap_or_default();
            let address = |a: Option<std::net::IpAddr>| a.map_or(Addr::UNSPECIFIED, Addr::from);
            let mut flags = now.flags & node_flags::READY;
            if self.tables_written {
                flags |= node_flags::READY;
            }
            if self.config.masquerade {
                flags |= node_flags::MASQUERADE;
            }
            let wanted = NodeConfig {
                node_v4: address(uplink.v4),
                node_v6: address(uplink.v6),
                gateway_v4: Addr::v4(POD_GATEWAY),
                uplink_ifindex: uplink.link.index,
                flags,
                snat_port_min: self.config.snat_ports.0,
                snat_port_max: self.config.snat_ports.1,
                mtu: uplink.link.mtu,
            };
            if wanted != now {
                self.parts.maps.node_config.update(&0, &wanted)?;
            }
            Ok(())
        })();
        self.outcome(
            Subject::Configuration,
            result.map_err(|e: sluice_cni::bpf::BpfError| chain(&e)),
        );
    }

    fn repair_pods(&mut self) {
        let result =
            endpoints::repair(&self.config.cni_state_dir, &self.parts.maps, &mut self.parts.hooks);
        if let Ok(done) = &result
            && (done.rows_written, done.rows_removed, done.attached) != (0, 0, 0)
        {
            tracing::info!(
                pods = done.pods,
                rows_written = done.rows_written,
                rows_removed = done.rows_removed,
                attached = done.attached,
                "pods repaired"
            );
        }
        self.outcome(Subject::Pods, result.map(drop).map_err(|e| chain(&e)));
    }

    fn reclaim_leases(&mut self) {
        let index = &self.index;
        let result = endpoints::reclaim(&self.config.cni_state_dir, |namespace, name| {
            index.pod(&ObjectName::new(namespace, name)).is_some_and(|p| {
                !p.host_network && !matches!(p.phase, PodPhase::Succeeded | PodPhase::Failed)
            })
        });
        match &result {
            Ok(freed) => {
                for owner in freed {
                    tracing::info!(pod = %owner, "lease of a vanished sandbox reclaimed");
                }
            }
            Err(e) => tracing::warn!(error = %chain(e), "leases not reclaimed"),
        }
        self.outcome(Subject::Leases, result.map(drop).map_err(|e| chain(&e)));
    }

    /// The CNI binary at any time, the configuration only once pods can really be wired.
    fn write_files(&mut self) {
        let mut result = Ok(());
        if let Some(dir) = &self.config.cni_bin_dir
            && (self.todo.files || !self.parts.health.ready())
        {
            match cni_files::install_binary(&self.config.cni_binary, dir) {
                Ok(true) => tracing::info!(dir = %dir.display(), "CNI binary installed"),
                Ok(false) => {}
                Err(e) => result = Err(chain(&e)),
            }
        }
        let works = self.tables_written
            && self.uplink.is_some()
            && result.is_ok()
            && !self
                .problems
                .keys()
                .any(|s| matches!(s, Subject::Tables | Subject::Network | Subject::Configuration));
        let subnet = self.pod_cidrs().into_iter().find(|net| net.addr().is_ipv4());
        match (works, subnet, self.mtu()) {
            (true, Some(subnet), Some(mtu)) => {
                if let Some(dir) = &self.config.cni_conf_dir {
                    let text = cni_files::conf(&subnet, mtu, &self.config.cni_state_dir);
                    match cni_files::write_conf(dir, &text) {
                        Ok(true) => {
                            tracing::info!(dir = %dir.display(), %subnet, mtu, "CNI configuration written");
                            for other in cni_files::preferred_to_ours(dir) {
                                tracing::warn!(file = %other, "another CNI configuration comes first: the runtime will not use Sluice");
                            }
                        }
                        Ok(false) => {}
                        Err(e) => result = Err(chain(&e)),
                    }
                }
                if result.is_ok() && !self.parts.health.ready() {
                    self.parts.health.set_ready(true);
                    tracing::info!("ready: pods can be wired");
                }
            }
            (true, None, _) => {
                let why = match self.index.this_node() {
                    Some(_) => {
                        "this Node has no IPv4 podCIDR: does the controller manager allocate them (--allocate-node-cidrs)?"
                    }
                    None => "there is no Node of this name in the API",
                };
                result = Err(format!("{}: {why}", self.config.node_name));
            }
            _ => {}
        }
        self.outcome(Subject::Files, result);
    }

    fn tell_health(&mut self, started: Instant) {
        let pending = match self.problems.values().next() {
            None => Pending::None,
            Some(text) => Pending::Failed(text.clone()),
        };
        self.parts.health.synced(started.elapsed(), &pending, self.rows());
    }

    /// Rows per table, as wanted.
    pub fn rows(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("frontends", self.tables.frontends().count()),
            ("networks", self.tables.networks().len()),
            ("routes", self.tables.routes().len()),
        ]
    }

    /// Answers what was asked.
    pub fn answer(&mut self) {
        for question in std::mem::take(&mut self.questions) {
            let json = answers::answer(self, &question.request);
            // Whoever asked may be gone.
            let _ = question.answer.send(json);
        }
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where objects come from, in words.
    pub fn source(&self) -> String {
        match &self.config.source {
            Source::Folder(folder) => format!("folder {}", folder.display()),
            Source::Api { .. } => "API server".to_owned(),
        }
    }

    /// Whether every list has arrived.
    pub fn synced(&self) -> bool {
        self.index.synced()
    }

    /// The uplink, once known.
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// The desired tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What it works on.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What is wrong now, each in one line.
    pub fn problems(&self) -> Vec<String> {
        self.problems.iter().map(|(s, text)| format!("{s:?}: {text}")).collect()
    }
}

/// An error with its causes in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        text.push_str(": ");
        text.push_str(&s.to_string());
        source = s.source();
    }
    text
}
