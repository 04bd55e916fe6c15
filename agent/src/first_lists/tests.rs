//! When the wait for lists ends, and the capacities that follow from them.

use sluice_core::Change;
use sluice_core::model::{Kind, Protocol};

use super::*;
use crate::harness::{Harness, node, service};
use crate::source::folder;

const LISTS: [Kind; 5] = [
    Kind::Node,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
];

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

/// Pod `db` of this node receives from each of these peers on a port of its own.
fn policies(peers: u16) -> Vec<Change> {
    let mut items =
        String::from("kind: List\nitems:\n- {kind: Namespace, metadata: {name: shop}}\n");
    let pod = |name: &str, app: u16, node: &str, ip: &str| {
        format!(
            "- {{kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: n{app}}}}}, \
             spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n"
        )
    };
    items += &pod("db", 0, "n1", "10.244.1.2");
    let mut rules = Vec::new();
    for n in 1..=peers {
        items += &pod(&format!("w{n}"), n, "n2", &format!("10.244.2.{n}"));
        rules.push(format!(
            "{{from: [{{podSelector: {{matchLabels: {{app: n{n}}}}}}}], ports: [{{port: {n}}}]}}"
        ));
    }
    items += &format!(
        "- kind: NetworkPolicy\n  metadata: {{name: db, namespace: shop}}\n  \
         spec: {{podSelector: {{matchLabels: {{app: n0}}}}, ingress: [{}]}}\n",
        rules.join(", ")
    );
    let mut objects = folder::parse(items.as_bytes()).unwrap();
    objects.push(node("n1", "172.18.0.2", "10.244.1.0/24"));
    Change::lists(objects.iter())
}

#[test]
fn capacity_holds_the_policies_of_the_pods_that_are_bound_to_this_node() {
    let least = Capacity::NONE.with(|_| 2);
    let listed = |peers: u16| {
        let mut state = Harness::idle_state();
        for change in policies(peers) {
            state.apply(Event::Objects(change), || true);
        }
        let larger = capacity(&mut state, least);
        (larger.policy_classes, larger.policy_peers)
    };
    // The map of classes has eight entries at least.
    assert_eq!(listed(0), (2, 2));
    assert_eq!(listed(1), (16, 2));
    assert_eq!(listed(100), (256, 512));
}

#[tokio::test(start_paused = true)]
async fn lists_of_pods_are_awaited_if_there_are_policies() {
    for (left_out, expected) in [(None, Duration::ZERO), (Some(Kind::Pod), LONGEST)] {
        let (sender, events) = mpsc::channel(32);
        for change in policies(1) {
            let is_left_out =
                matches!(&change, Change::Replace(kind, _) if Some(*kind) == left_out);
            if !is_left_out {
                sender.send(Event::Objects(change)).await.unwrap();
            }
        }
        let mut state = Harness::idle_state();
        assert_eq!(receive_from(&mut state, events).await, expected, "{left_out:?}");
    }
}
