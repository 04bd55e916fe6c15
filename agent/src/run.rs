//! Start-up of the agent, in order: requirements, lock, watches, first lists of a node without maps,
//! programs and maps, servers, the loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use prometheus_client::metrics::counter::Counter;
use sluice_core::diff::Capacity;
use sluice_core::model::Kind;
use sluice_pod::lease::Store;
use tokio::sync::mpsc;

use crate::conditions::Concern;
use crate::config::Config;
use crate::counters::Count;
use crate::dir_watcher::DirWatcher;
use crate::event::Event;
use crate::event_loop::{EventLoop, Observer, RESYNC};
use crate::flows::{self, FlowStats};
use crate::kernel::linux::events::Events;
use crate::kernel::linux::sizes::{self, Sizes};
use crate::kernel::linux::{LinuxKernel, Paths, cni_files, heap, load, maps, monitor, pins, probe};
use crate::kernel::read_counters;
use crate::lock::{self, Lock};
use crate::notices::{self, CniStats};
use crate::observe::{self, Health, Pending, metrics};
use crate::paths::RUN_DIR;
use crate::reconcile::Reconcilers;
use crate::signals::{Signals, Stop};
use crate::state::{Cause, State};
use crate::watches::Watches;
use crate::{api, drops, findings, first_lists, health_checks, source, version};

/// Capacity of the event channel; senders wait while it is full.
const QUEUE: usize = 256;

/// Concerns whose failure keeps changes from reaching the programs. Only these make the agent
/// unhealthy: a restart does not help against a route that the kernel refuses.
const LIVENESS: [Concern; 4] =
    [Concern::ServiceMaps, Concern::Policy, Concern::NodeConfig, Concern::Migration];

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The node does not meet a requirement, a program is refused, a flag is not valid, or a socket
/// cannot be opened.
pub fn run(config: Config) -> anyhow::Result<()> {
    heap::use_one_arena();
    let signals = Signals::block().context("block signals")?;
    // One thread for the event loop and the command line's socket. Each further one costs memory on every
    // node: only work that must go on while the loop is busy has one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    runtime.block_on(serve(config, signals))
}

async fn serve(config: Config, signals: Signals) -> anyhow::Result<()> {
    tracing::info!(
        version = version::VERSION,
        revision = version::REVISION,
        node = %config.node_name,
        "sluice agent started"
    );
    let (events, mut queue) = mpsc::channel(QUEUE);
    let to_loop = events.clone();
    let stop = signals
        .receive(move || drop(to_loop.blocking_send(Event::Stop)))
        .context("start the thread of signals")?;
    let cgroup_root = check_requirements(&config)?;
    let _lock = match Lock::take_unless(Path::new(RUN_DIR), lock::WAIT, || stop.is_set()) {
        Err(_) if stop.is_set() => {
            tracing::info!("sluice agent stopped while another one held the lock");
            return Ok(());
        }
        result => result?,
    };
    withdraw_cni_config(&config)?;
    let flow_stats = FlowStats::default();
    flow_stats.capacity.set(i64::from(config.flows));
    flow_stats.limit_of_a_pod.set(i64::from(config.flows_per_pod));
    flow_stats.limit_without_pod.set(i64::from(config.flows_without_pod));
    let watches = Watches::default();
    let (findings, found) = findings::queue();
    source::spawn(config.clone(), events.clone(), Event::Objects, watches.clone(), found).await?;
    let mut state = State::new(config.clone(), Instant::now());
    let mut sizes =
        Sizes { flows: config.flows, least: Capacity::initial(config.initial_capacity) };
    if !pins::exist() {
        first_lists::receive(&mut state, &mut queue).await;
        sizes.least = first_lists::capacity(&mut state, sizes.least);
    }
    let Some(loaded) = load_programs(&sizes, &stop)? else {
        tracing::info!("sluice agent stopped before the programs were loaded");
        return Ok(());
    };

    let health = Arc::new(Health::default());
    let cni_stats = CniStats::default();
    let (health_checks, health_check_servers) = health_checks::new(Arc::clone(&health));
    let servers = health_check_servers.boxed();
    let lost = Counter::default();
    serve_observers(&config, servers, &health, &watches, &flow_stats, &cni_stats, &lost)?;
    api::serve(&config.socket, events.clone(), Event::Call)
        .with_context(|| format!("--socket {}", config.socket.display()))?;
    monitor::spawn(events.clone())?;
    flows::spawn(maps::PinnedFlows, flow_stats.clone(), Store::new(&config.cni_state_dir))
        .context("cannot start the collection of flows")?;
    drops::spawn(Events::open, events.clone(), lost.clone())
        .context("cannot start the reader of dropped packets")?;
    watch_dirs(&config, events.clone());
    notices::spawn(Store::new(&config.cni_state_dir), cni_stats, events)
        .context("cannot receive the notices of the CNI binary")?;

    let paths = Paths {
        cni_bin_dir: config.cni_bin_dir.clone(),
        cni_conf_dir: config.cni_conf_dir.clone(),
        cni_binary: config.cni_binary.clone(),
        cni_state_dir: config.cni_state_dir.clone(),
        cgroup_root,
        run_dir: PathBuf::from(RUN_DIR),
    };
    let kernel = LinuxKernel::open(paths, sizes, stop, Box::new(health_checks))?;
    state.set_capacity(sizes::pinned()?);
    if loaded.takes_over_from.is_some() {
        state.take_over_later();
    }
    let reconcilers = Reconcilers::all();
    let publisher = Box::new(Publisher { health, settled: [false; 2] });
    EventLoop::new(state, kernel, reconcilers, publisher)
        .with_watches(watches)
        .with_findings(findings)
        .with_lost_events(lost)
        .run(&mut queue)
        .await;
    tracing::info!("sluice agent stopped; programs, maps and routes stay in place");
    Ok(())
}

/// Checks the requirements; returns the cgroup root.
fn check_requirements(config: &Config) -> anyhow::Result<PathBuf> {
    let findings = probe::run(config.cgroup_root.as_deref());
    if let Some(line) = findings.missing_line() {
        anyhow::bail!(line);
    }
    for note in &findings.notes {
        tracing::info!("{note}");
    }
    findings.cgroup_root.context("no cgroup v2 mount")
}

/// Makes a node that has started again not Ready until it has a dataplane.
fn withdraw_cni_config(config: &Config) -> anyhow::Result<()> {
    let Some(dir) = config.cni_conf_dir.as_deref().filter(|_| !pins::exist()) else {
        return Ok(());
    };
    if cni_files::withdraw_config(dir)? {
        tracing::info!(
            dir = %dir.display(),
            "no programs are pinned: CNI configuration removed until pods can be connected"
        );
    }
    Ok(())
}

/// Loads the programs, unless the agent is to stop.
fn load_programs(sizes: &Sizes, stop: &Stop) -> anyhow::Result<Option<load::Loaded>> {
    let started = Instant::now();
    if stop.is_set() {
        return Ok(None);
    }
    let loaded = match load::load(sizes, stop) {
        Err(load::LoadError::Stopping) => return Ok(None),
        result => result?,
    };
    heap::trim();
    tracing::info!(
        maps_kept = loaded.maps_kept,
        maps_shared = loaded.maps_shared,
        maps_created = loaded.maps_created,
        programs_kept = loaded.programs_kept,
        programs_pinned = loaded.programs_pinned,
        programs_verified = loaded.programs_verified,
        takes_over_from = loaded.takes_over_from.as_deref().unwrap_or("-"),
        duration = ?started.elapsed(),
        "programs loaded"
    );
    #[cfg(feature = "program-log")]
    crate::kernel::linux::program_log::spawn()?;
    Ok(Some(loaded))
}

/// Health, metrics and `servers`, on their own thread.
fn serve_observers(
    config: &Config,
    servers: BoxFuture<'static, ()>,
    health: &Arc<Health>,
    watches: &Watches,
    flows: &FlowStats,
    cni: &CniStats,
    lost: &Counter,
) -> anyhow::Result<()> {
    let mut servers = vec![servers];
    if let Some(address) = config.health_bind {
        servers.push(observe::serve_health(address, Arc::clone(health)).boxed());
    }
    if let Some(address) = config.metrics_bind {
        let counters = maps::counters()?;
        let lost = lost.clone();
        let counts = move || {
            let mut counts = read_counters(&counters).unwrap_or_default();
            counts.push(Count::not_examined(lost.get()));
            counts
        };
        let registry = metrics::registry(health.metrics(), watches, flows, cni, counts);
        servers.push(observe::serve_metrics(address, registry).boxed());
    }
    let servers = async { drop(join_all(servers).await) };
    observe::spawn(servers).context("start the thread of health and metrics")?;
    Ok(())
}

/// Watches the directories of the CNI files.
fn watch_dirs(config: &Config, events: mpsc::Sender<Event>) {
    let dirs: Vec<PathBuf> =
        [&config.cni_bin_dir, &config.cni_conf_dir].into_iter().flatten().cloned().collect();
    for dir in &dirs {
        if let Err(error) = std::fs::create_dir_all(dir) {
            tracing::warn!(dir = %dir.display(), %error, "could not create directory");
        }
    }
    let watcher = match DirWatcher::new(dirs.iter().map(AsRef::as_ref)) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(
                ?dirs,
                %error,
                "could not watch directories, falling back to polling every {} s",
                RESYNC.as_secs()
            );
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            watcher.changed().await;
            if events.send(Event::CniFiles).await.is_err() {
                return;
            }
        }
    });
}

/// Copies a snapshot of the state to the health and metrics servers.
struct Publisher {
    health: Arc<Health>,
    /// Whether the tables were written, and the Pods listed, at the last pass: the memory that lists and
    /// plans take is returned after each.
    settled: [bool; 2],
}

impl Observer for Publisher {
    fn alive(&mut self) {
        self.health.alive();
    }

    fn programmed(&mut self, causes: &[Cause]) {
        self.health.metrics().proxy.programmed(causes, SystemTime::now());
    }

    fn observe(&mut self, state: &State, duration: Duration) {
        let pending = match LIVENESS.iter().find_map(|concern| state.conditions.failed(*concern)) {
            None => Pending::None,
            Some(condition) => Pending::Failed(condition.message.clone()),
        };
        self.health.synced(duration, &pending, state.rows());
        let success = pending == Pending::None;
        self.health.metrics().proxy.synced(duration, state.changes(), success);
        self.health.metrics().proxy.without_local(state.tables().without_local());
        self.health.metrics().policy.observe(
            state.policy_counts(),
            state.policies_programmed(),
            state.policy_findings().iter(),
        );
        self.health.metrics().policy.dropped(state.drops_by_policy());
        self.health.metrics().conditions.set(&state.conditions);
        self.health.repaired(state.repairs());
        self.health.set_ready(state.ready());
        self.health.set_node_eligible(state.node_eligible());
        let settled = [state.tables_written(), state.listed(Kind::Pod)];
        if settled != self.settled {
            self.settled = settled;
            heap::trim();
        }
    }
}
