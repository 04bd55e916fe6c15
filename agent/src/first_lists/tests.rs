//! When the wait for lists ends, and the capacities that follow from them.

use sluice_core::Change;
use sluice_core::model::{Kind, Protocol};

use super::*;
use crate::harness::{Harness, service};

const LISTS: [Kind; 3] = [Kind::Node, Kind::Service, Kind::EndpointSlice];

/// Waits for lists; returns the time that it took.
async fn receive_from(state: &mut State, mut events: mpsc::Receiver<Event>) -> Duration {
    let started = Instant::now();
    receive(state, &mut events).await;
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn complete_lists_end_the_wait_at_once_and_later_events_stay_in_the_queue() {
    let mut state = Harness::idle_state();
    let (sender, mut events) = mpsc::channel(8);
    for kind in LISTS {
        sender.send(Event::Objects(Change::Replace(kind, vec![]))).await.unwrap();
    }
    sender.send(Event::Leases).await.unwrap();
    let started = Instant::now();
    receive(&mut state, &mut events).await;
    assert!(state.synced());
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(matches!(events.try_recv(), Ok(Event::Leases)));
}

#[tokio::test(start_paused = true)]
async fn wait_ends_without_events_and_when_the_agent_stops() {
    let (_sender, events) = mpsc::channel(8);
    let mut state = Harness::idle_state();
    assert_eq!(receive_from(&mut state, events).await, QUIET);

    let (sender, events) = mpsc::channel(8);
    sender.send(Event::Stop).await.unwrap();
    assert_eq!(receive_from(&mut state, events).await, Duration::ZERO);
    assert!(state.stopped());
}

#[tokio::test(start_paused = true)]
async fn wait_is_bounded_while_events_arrive() {
    let (sender, events) = mpsc::channel(8);
    let objects = tokio::spawn(async move {
        for _ in 0..100 {
            let object = service("a", Protocol::Tcp, "10.96.0.1", 1);
            if sender.send(Event::Objects(Change::Apply(object))).await.is_err() {
                return;
            }
            tokio::time::sleep(QUIET / 2).await;
        }
    });
    let mut state = Harness::idle_state();
    assert_eq!(receive_from(&mut state, events).await, LONGEST);
    assert!(!state.synced());
    objects.await.unwrap();
}

#[test]
fn capacity_holds_the_listed_objects_and_is_not_below_the_least() {
    let least = Capacity::NONE.with(|_| 2);
    let listed = |services: u32| {
        let mut state = Harness::idle_state();
        let named = |n| service(&format!("s{n}"), Protocol::Tcp, &format!("10.96.1.{n}"), 1);
        let services = (1..=services).map(named).collect();
        for (kind, objects) in LISTS.into_iter().zip([vec![], services, vec![]]) {
            state.apply(Event::Objects(Change::Replace(kind, objects)), || true);
        }
        capacity(&mut state, least)
    };
    assert_eq!(listed(1), least);
    // Each has a frontend and a wildcard row; each map has space for a quarter more.
    let larger = listed(100);
    assert_eq!((larger.frontends, larger.services), (256, 128));
    assert_eq!(larger.backends, least.backends);
}

#[test]
fn incomplete_lists_do_not_decide_the_capacity() {
    let least = Capacity::NONE.with(|_| 2);
    let mut state = Harness::idle_state();
    let named = |n| service(&format!("s{n}"), Protocol::Tcp, &format!("10.96.1.{n}"), 1);
    let services = (1..=100).map(named).collect();
    state.apply(Event::Objects(Change::Replace(Kind::Service, services)), || true);
    assert_eq!(capacity(&mut state, least), least);
}
