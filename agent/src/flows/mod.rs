//! Collection of ended flows.
//!
//! ```text
//! every 5 s, in a thread of its own:  FLOWS in chunks --judge--> keep: count by pod | remove
//! ```
//! The programs treat an expired entry as absent and reuse it; this removes what no flow reuses. The
//! tables of new flows evict by themselves and are not read. The thread is the only part of the
//! agent that writes `FLOWS`, and corrects the counts in `POD_FLOWS`, which the programs keep.

mod judge;
mod report;

use std::io;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_abi::{FlowEntry, FlowKey, PodFlows, map, tick};
use sluice_bpf::{BpfError, error_chain};
use sluice_pod::lease::{KnownLeases, Store};

use self::judge::{Counts, Fate, correction, fate};
use self::report::SourcePortCounts;
pub use self::report::{Report, SharedReport};
use crate::kernel::{FlowMaps, FlowTables};

/// Time between two rounds: short compared to every lifetime.
const INTERVAL: Duration = Duration::from_secs(5);
/// Rounds after which the aliases are compared with their main entries.
const ALIAS_ROUNDS: u32 = 12;

/// Results of the rounds; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct FlowStats {
    /// Entries of `FLOWS` after the last round.
    pub entries: Gauge,
    /// Capacity of `FLOWS`.
    pub capacity: Gauge,
    /// Removed entries since the start.
    pub removed: Counter,
    /// Flows that were not confirmed for lack of space or budget, since the maps were created.
    pub unconfirmed: Gauge,
    /// Most entries of one pod after the last round.
    pub most_of_a_pod: Gauge,
    /// Most entries that a pod may have.
    pub limit_of_a_pod: Gauge,
    /// Entries of flows without a pod of this node, except TCP, after the last round.
    pub without_pod: Gauge,
    /// Most entries that flows without a pod of this node, except TCP, may have.
    pub limit_without_pod: Gauge,
    /// Fill of the maps, source ports by destination, flows by pod.
    pub report: SharedReport,
}

impl FlowStats {
    /// Registers the gauges and counters; the report has a collector of its own.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("sluice_flow_entries", "Entries of the table of flows", &self.entries),
            ("sluice_flow_entries_limit", "Capacity of the table of flows", &self.capacity),
            (
                "sluice_flow_entries_of_a_pod_max",
                "Entries of the pod with the most entries in the table of flows",
                &self.most_of_a_pod,
            ),
            (
                "sluice_flow_entries_of_a_pod_limit",
                "Entries that a pod can have in the table of flows (--flows-per-pod)",
                &self.limit_of_a_pod,
            ),
            (
                "sluice_flow_entries_without_pod",
                "Entries of flows without a pod of this node, except TCP, in the table of flows",
                &self.without_pod,
            ),
            (
                "sluice_flow_entries_without_pod_limit",
                "Entries that flows without a pod of this node, except TCP, can have in the table of flows",
                &self.limit_without_pod,
            ),
            (
                "sluice_flows_unconfirmed",
                "Answered flows beyond the limit of their pod, of flows without a pod, or of the table",
                &self.unconfirmed,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "sluice_flows_removed",
            "Entries of ended flows removed",
            self.removed.clone(),
        );
    }
}

/// The present tick, by the clock of the programs.
///
/// # Errors
/// The clock cannot be read.
pub fn now() -> io::Result<u32> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(tick(Duration::from(time).as_nanos() as u64))
}

/// Starts the thread. It ends with the process.
///
/// # Errors
/// The thread cannot be created.
pub fn spawn(tables: impl FlowTables + 'static, stats: FlowStats, store: Store) -> io::Result<()> {
    let collect = move || {
        let (mut failing, mut leases) = (false, (store, KnownLeases::default()));
        for round in 0u32.. {
            thread::sleep(INTERVAL);
            let result = round_of(&tables, &stats, &mut leases, round % ALIAS_ROUNDS == 0);
            match &result {
                Err(error) if !failing => tracing::warn!(
                    error = %error_chain(error.as_ref()),
                    "could not collect ended flows, retrying every {} s",
                    INTERVAL.as_secs()
                ),
                Ok(()) if failing => tracing::info!("ended flows are collected again"),
                _ => {}
            }
            failing = result.is_err();
        }
    };
    thread::Builder::new().name("flows".to_owned()).spawn(collect).map(drop)
}

/// One round.
fn round_of(
    tables: &impl FlowTables,
    stats: &FlowStats,
    (store, known): &mut (Store, KnownLeases),
    with_aliases: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let maps = tables.open()?;
    let (removed, counts) = maps.collect(stats, now()?, with_aliases)?;
    stats.removed.inc_by(removed);
    // Without leases, the flows have no names.
    let leases = store.read_changed(known).map(|read| read.leases).unwrap_or_default();
    let pods = report::by_pod(leases, &counts);
    stats.report.update(|report| report.pods = pods);
    if with_aliases {
        let fill = tables.fill()?;
        stats.report.update(|report| report.maps = fill);
    }
    Ok(())
}

impl FlowMaps {
    /// Removes what has ended; returns the number of removed entries, and the others by pod.
    fn collect(
        &self,
        stats: &FlowStats,
        now: u32,
        with_aliases: bool,
    ) -> Result<(u64, Counts), BpfError> {
        let mut generations = vec![0; map::LOCAL_PODS_MAX as usize];
        self.pods.visit(|index, pod| {
            if let Some(generation) = generations.get_mut(index as usize) {
                *generation = pod.generation;
            }
        })?;
        let mut before = vec![0; map::LOCAL_PODS_MAX as usize];
        self.pod_flows.visit(|index, flows| {
            if let Some(confirmed) = before.get_mut(index as usize) {
                *confirmed = flows.confirmed;
            }
        })?;
        let mut counts = Counts::default();
        let mut ports = SourcePortCounts::default();
        let mut ended = Vec::new();
        let mut aliases = Vec::new();
        self.flows.visit(|key, entry| match fate(&entry, now, &generations) {
            Fate::Alias if with_aliases => aliases.push((key, entry)),
            Fate::Alias => {}
            Fate::Keep => {
                counts.add(&entry);
                ports.add(&entry);
            }
            Fate::Remove => ended.push((key, entry)),
        })?;
        let mut removed = 0;
        for (key, entry) in &ended {
            removed += self.remove(key, entry, now, &generations)?;
        }
        for (key, alias) in &aliases {
            let main = self.flows.lookup(&alias.other.sorted())?;
            if main.is_none_or(|main| main.is_alias() || main.other != alias.tuple) {
                removed += u64::from(self.flows.delete(key)?);
            }
        }
        self.correct(&counts, &before)?;
        stats.capacity.set(i64::from(self.flows.info().max_entries));
        stats.entries.set(i64::try_from(counts.entries()).unwrap_or(i64::MAX));
        stats.most_of_a_pod.set(i64::from(counts.most_of_a_pod()));
        stats.without_pod.set(i64::from(counts.of(map::FLOWS_WITHOUT_POD)));
        let mut unconfirmed = 0;
        self.pod_flows.visit(|_, flows| unconfirmed += i64::from(flows.unconfirmed))?;
        stats.unconfirmed.set(unconfirmed);
        let (ports_max, destinations) = ports.largest();
        stats.report.update(|report| {
            (report.ports_max, report.destinations) = (ports_max, destinations);
        });
        Ok((removed, counts))
    }

    /// Removes a flow that still has ended: a packet may have revived it since it was read.
    fn remove(
        &self,
        key: &FlowKey,
        entry: &FlowEntry,
        now: u32,
        generations: &[u16],
    ) -> Result<u64, BpfError> {
        match self.flows.lookup(key)? {
            Some(current) if fate(&current, now, generations) == Fate::Remove => {}
            _ => return Ok(0),
        }
        let mut removed = u64::from(self.flows.delete(key)?);
        if entry.is_translated() {
            for alias in [entry.other.sorted(), entry.other.shadowed()] {
                let found = self.flows.lookup(&alias)?;
                if found.is_some_and(|found| found.is_alias() && found.other == entry.tuple) {
                    removed += u64::from(self.flows.delete(&alias)?);
                }
            }
        }
        Ok(removed)
    }

    /// Corrects counts that differ from what was counted: those of removed flows, above all. `before` are the
    /// counts by index before the table was read.
    fn correct(&self, counts: &Counts, before: &[u32]) -> Result<(), BpfError> {
        let mut wrong = Vec::new();
        self.pod_flows.visit(|index, flows| {
            let before = before.get(index as usize).copied().unwrap_or_default();
            if let Some(confirmed) = correction(counts.of(index), before, flows.confirmed) {
                wrong.push((index, PodFlows { confirmed, ..flows }));
            }
        })?;
        for (index, flows) in wrong {
            self.pod_flows.update(&index, &flows)?;
        }
        Ok(())
    }
}
