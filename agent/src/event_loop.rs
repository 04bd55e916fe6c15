//! Everything that can make the agent do something comes through one channel as an [`Event`]; one
//! task owns all state and works them off.
//!
//! ```text
//! watch, netlink, inotify, clock, command line --Event--> Node::take   what is there to do?
//!                                              (drained)  Node::round  compile, diff, write
//! ```
//! Events that wait are taken together, so that a burst costs one round. A round that fails is
//! tried again with growing patience; everything it did is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_core::Change;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::{self, Call};
use crate::config::Config;
use crate::dataplane::maps::Maps;
use crate::dataplane::{attach, counters, load, probe};
use crate::dir_watcher::DirWatcher;
use crate::node::{Node, Parts};
use crate::observe::{self, Health};
use crate::{host, source};

/// Everything that can make the agent do something.
#[derive(Debug)]
pub enum Event {
    /// Objects came, changed or went.
    Objects(Change),
    /// Devices, addresses or routes of the node changed.
    Network,
    /// The CNI binary wrote its leases.
    Leases,
    /// Somebody touched the installed CNI files.
    CniFiles,
    /// Time to look at everything again, in case a message got lost.
    Clock,
    /// The command line asks.
    Call(Call),
    /// SIGTERM or SIGINT. Everything stays in place: pods go on without an agent.
    Stop,
}

/// Events that may wait before a source has to.
const QUEUE: usize = 256;
/// Most events taken together.
const BATCH: usize = 4096;
/// How often everything is looked at without a reason.
const CLOCK: Duration = Duration::from_secs(30);
/// Pause after a first failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What makes it pointless to run: an old kernel, a refused program, a wrong flag.
pub fn run(config: Config) -> anyhow::Result<()> {
    // One thread: the work is small, and each further thread costs memory on every node.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %config.node_name, "sluice agent");
    let findings = probe::look(config.cgroup_root.as_deref());
    if let Some(line) = findings.missing_line() {
        anyhow::bail!(line);
    }
    for note in &findings.notes {
        tracing::info!("{note}");
    }
    let started = Instant::now();
    let loaded = load::load()?;
    load::trim_heap();
    tracing::info!(
        maps_kept = loaded.maps_kept,
        maps_created = loaded.maps_created,
        programs_kept = loaded.programs_kept,
        programs_pinned = loaded.programs_pinned,
        took = ?started.elapsed(),
        "dataplane loaded"
    );
    if let Some(root) = &findings.cgroup_root {
        let changed = attach::sockets(root)?;
        tracing::info!(cgroup = %root.display(), changed, "socket programs attached");
    }

    let health = Arc::new(Health::default());
    let (tx, mut events) = mpsc::channel(QUEUE);
    start_servers(&config, &health)?;
    api::serve(&config.socket, tx.clone(), Event::Call)
        .map_err(|e| anyhow::anyhow!("--socket {}: {e}", config.socket.display()))?;
    host::monitor::spawn(tx.clone(), || Event::Network)?;
    follow_files(&config, &tx);
    clock_and_signals(&tx)?;
    source::spawn(&config, tx.clone(), Event::Objects).await?;
    drop(tx);

    let parts = Parts {
        host: host::Host::open()?,
        hooks: attach::Hooks::open()?,
        maps: Maps::open()?,
        health,
    };
    let mut node = Node::new(config, parts)?;
    // Before the first object arrives: pods that run already get what this agent brought.
    node.take(Event::Network);
    node.take(Event::Leases);
    work(&mut node, &mut events).await;
    tracing::info!("stopped; programs, tables and routes stay in force");
    Ok(())
}

async fn work(node: &mut Node, events: &mut mpsc::Receiver<Event>) {
    let mut pause = FIRST_PAUSE;
    let mut retry_at: Option<Instant> = Some(Instant::now());
    loop {
        let wait = retry_at.map_or(CLOCK, |at| at.saturating_duration_since(Instant::now()));
        match tokio::time::timeout(wait, events.recv()).await {
            Ok(None | Some(Event::Stop)) => return,
            Ok(Some(event)) => {
                node.take(event);
                for _ in 0..BATCH {
                    match events.try_recv() {
                        Ok(Event::Stop) => return,
                        Ok(event) => node.take(event),
                        Err(_) => break,
                    }
                }
            }
            Err(_elapsed) => {}
        }
        if node.round().await {
            retry_at = None;
            pause = FIRST_PAUSE;
        } else if retry_at.is_none_or(|at| at <= Instant::now()) {
            retry_at = Some(Instant::now() + pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        node.answer();
    }
}

fn start_servers(config: &Config, health: &Arc<Health>) -> anyhow::Result<()> {
    if let Some(address) = config.health_bind {
        tokio::spawn(observe::serve_health(address, Arc::clone(health)));
    }
    if let Some(address) = config.metrics_bind {
        let maps = Maps::open()?;
        let counts = move || counters::read(&maps.counters).unwrap_or_default();
        tokio::spawn(observe::serve_metrics(address, Arc::clone(health), counts));
    }
    Ok(())
}

/// Follows the folders of the CNI files and leases. One that cannot be followed is looked at by
/// the clock.
fn follow_files(config: &Config, tx: &mpsc::Sender<Event>) {
    let state = config.cni_state_dir.clone();
    if let Err(e) = std::fs::create_dir_all(&state) {
        tracing::warn!(dir = %state.display(), error = %e, "cannot make the folder of leases");
    }
    spawn_follow(vec![state], tx.clone(), || Event::Leases);
    let files: Vec<_> =
        [&config.cni_bin_dir, &config.cni_conf_dir].into_iter().flatten().cloned().collect();
    for dir in &files {
        if let Err(e) = std::fs::create_dir_all(dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "cannot make the folder");
        }
    }
    spawn_follow(files, tx.clone(), || Event::CniFiles);
}

fn spawn_follow(folders: Vec<std::path::PathBuf>, tx: mpsc::Sender<Event>, event: fn() -> Event) {
    let follow = match DirWatcher::new(folders.iter().map(AsRef::as_ref)) {
        Ok(follow) => follow,
        Err(e) => {
            tracing::warn!(error = %e, "only looked at by the clock");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            follow.changed().await;
            if tx.send(event()).await.is_err() {
                return;
            }
        }
    });
}

fn clock_and_signals(tx: &mpsc::Sender<Event>) -> anyhow::Result<()> {
    let clock = tx.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(CLOCK).await;
            if clock.send(Event::Clock).await.is_err() {
                return;
            }
        }
    });
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = tx.clone();
        tokio::spawn(async move {
            signals.recv().await;
            let _ = stop.send(Event::Stop).await;
        });
    }
    Ok(())
}
