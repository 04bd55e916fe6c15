//! The first lists of a node without maps.
//!
//! The programs refer to their maps, so that larger maps need all programs verified again
//! ([`crate::reconcile::growth`]). On a node that has none yet, nothing is lost while the lists arrive:
//! the maps are created for what they hold. Without an API server, or with a slow one, the maps get
//! their initial sizes.

use std::time::Duration;

use sluice_core::diff::Capacity;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::event::Event;
use crate::state::State;

/// Longest time without an event.
const QUIET: Duration = Duration::from_secs(1);
/// Longest time in all.
const LONGEST: Duration = Duration::from_secs(10);

/// Applies events until the lists that the tables depend on are complete, or the agent is to stop, or
/// time is up.
pub async fn receive(state: &mut State, events: &mut mpsc::Receiver<Event>) {
    let end = Instant::now() + LONGEST;
    while !state.synced() && !state.stopped() {
        let quiet = Instant::now() + QUIET;
        match timeout_at(end.min(quiet), events.recv()).await {
            Ok(Some(event)) => state.apply(event, || true),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Capacities, at least `least`, with which the maps hold the tables of these lists.
pub fn capacity(state: &mut State, least: Capacity) -> Capacity {
    state.set_now(Instant::now().into_std());
    state.compile();
    let needed = Capacity::for_tables(state.tables());
    least.grown(&needed, &Capacity::default()).unwrap_or(least)
}

#[cfg(test)]
mod tests;
