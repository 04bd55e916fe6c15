//! The state of this node, and the steps that bring the kernel in line with it.
//!
//! In: [`Event`]s, which only mark what there is to do. Then a round does it, in this order:
//! facts of the node, tables, routes, configuration, pods, CNI files. Each step may be repeated;
//! one that fails is told and tried again, and does not keep the others from being done, but for
//! what builds on it: nothing is deleted before every list has arrived, and the CNI configuration
//! is written last.

mod pods;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use sluice_core::model::Kind;
use sluice_core::{Change, Changed, Index, Object, Programmed, Surroundings, Tables};

use crate::api::{Call, Condition};
use crate::config::Config;
use crate::dataplane::attach::Hooks;
use crate::dataplane::maps::Maps;
use crate::dataplane::read_back;
use crate::event_loop::Event;
use crate::host;
use crate::host::{Facts, Host, Uplink};
use crate::observe::{Health, Pending};

/// Every so many ticks of the clock (30 s each) the kernel's tables are read and compared.
const COMPARE_TICKS: u32 = 10;

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
    /// Read the kernel's tables and compare them with what was written.
    compare: bool,
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
    /// Old and new MTU of the uplink, until pods have followed.
    mtu_moved: Option<(u32, u32)>,
    surroundings: Surroundings,
    todo: Todo,
    ticks: u32,
    nodes_dirty: bool,
    /// Changes of tables that could not be written yet.
    unwritten: Changed,
    tables_written: bool,
    compare_all: bool,
    problems: BTreeMap<Subject, String>,
    questions: Vec<Call>,
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
            mtu_moved: None,
            surroundings: Surroundings {
                service_cidrs: config.service_cidrs.clone(),
                ..Surroundings::default()
            },
            todo: Todo::default(),
            ticks: 0,
            nodes_dirty: false,
            unwritten: Changed::default(),
            tables_written: false,
            compare_all: false,
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
                // Which device leads out is a question of this node's own addresses.
                self.todo.facts |= match &change {
                    Change::Apply(Object::Node(node)) => node.name == self.config.node_name,
                    Change::Replace(kind, _) => *kind == Kind::Node,
                    _ => false,
                };
                self.todo.tables = true;
                self.index.apply(change);
            }
            Event::Network => {
                self.todo.facts = true;
                self.todo.routes = true;
            }
            Event::Leases => self.todo.pods = true,
            Event::CniFiles => self.todo.files = true,
            Event::Clock => {
                self.ticks = self.ticks.wrapping_add(1);
                self.todo = Todo {
                    facts: true,
                    tables: true,
                    routes: true,
                    pods: true,
                    reclaim: true,
                    files: true,
                    compare: self.ticks.is_multiple_of(COMPARE_TICKS),
                };
            }
            Event::Call(question) => self.questions.push(question),
            Event::Stop => {}
        }
    }

    /// Does what there is to do. False if something has to be tried again.
    pub async fn round(&mut self) -> bool {
        let started = Instant::now();
        let unsettled = [Subject::Network, Subject::Forwarding, Subject::Configuration];
        if self.todo.facts || unsettled.iter().any(|s| self.problems.contains_key(s)) {
            self.read_facts().await;
        }
        if std::mem::take(&mut self.todo.compare) && self.problems.is_empty() {
            self.read_back();
        }
        if self.todo.tables || !self.unwritten.is_empty() {
            self.write_tables();
        }
        if self.todo.routes || self.problems.contains_key(&Subject::Routes) {
            self.write_routes().await;
        }
        self.write_configuration();
        self.follow_mtu();
        if self.todo.pods || self.problems.contains_key(&Subject::Pods) {
            self.repair_pods();
        }
        if self.todo.reclaim {
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

    /// The node's own pod ranges, as its Node object says.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default()
    }

    /// MTU of pods in bytes.
    pub fn mtu(&self) -> Option<u32> {
        self.config.mtu.or(self.uplink.as_ref().map(|u| u.link.mtu))
    }

    fn tell_health(&mut self, started: Instant) {
        // Only what keeps changes from reaching the programs makes the agent unwell: a route that
        // the kernel refuses does not get better by killing the agent.
        let unwritten = [Subject::Tables, Subject::Configuration];
        let pending = match unwritten.iter().find_map(|s| self.problems.get(s)) {
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
            question.respond(self);
        }
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.config
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

    /// Conditions that are set.
    pub fn conditions(&self) -> Vec<Condition> {
        let condition = |(subject, text): (&Subject, &String)| Condition {
            kind: format!("{subject:?}"),
            message: text.clone(),
        };
        self.problems.iter().map(condition).collect()
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
