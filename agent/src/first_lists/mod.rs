//! The first lists of a node without maps.
//!
//! Larger maps require that all programs are verified again ([`crate::reconcile::growth`]). A node without
//! maps has no traffic to interrupt, so the agent waits for the lists and creates maps that hold them. If the
//! API server is slow or unreachable, the maps get their initial capacities. Pods, which take the longest, are
//! awaited if there are policies; no pod can be connected without them.

use std::time::Duration;

use sluice_core::diff::Capacity;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::event::Event;
use crate::state::State;

/// Longest wait for the next event.
const QUIET: Duration = Duration::from_secs(1);
/// Longest wait in total.
const LONGEST: Duration = Duration::from_secs(10);

/// Applies events until the lists that the tables and policies depend on are complete, or the agent is to stop,
/// or time is up.
pub async fn receive(state: &mut State, events: &mut mpsc::Receiver<Event>) {
    let end = Instant::now() + LONGEST;
    while !(state.stopped() || state.synced() && state.policies_known()) {
        let quiet = Instant::now() + QUIET;
        let until = if state.lists_of_policies_are_missing() { end } else { end.min(quiet) };
        match timeout_at(until, events.recv()).await {
            Ok(Some(event)) => state.apply(event, || true),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Capacities, at least `least`, with which the maps hold the tables and policies of these lists.
pub fn capacity(state: &mut State, least: Capacity) -> Capacity {
    state.set_now(Instant::now().into_std());
    state.compile();
    let needed = Capacity::for_tables(state.tables()).max(&state.policy_entries_of_lists());
    least.grown(&needed, &Capacity::default()).unwrap_or(least)
}

#[cfg(test)]
mod tests;
