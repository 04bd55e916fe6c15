//! What a watch makes of events and errors.

use futures::stream;
use kube::core::Status;
use tokio::time::{Instant, timeout};

use super::*;

fn node(name: &str) -> Node {
    serde_json::from_value(serde_json::json!({ "metadata": { "name": name } })).unwrap()
}

fn watch() -> Watch {
    Watch::new(Kind::Node, Absence::Failure, Watches::default().add("Node"))
}

fn apply(watch: &mut Watch, event: Event<Node>) -> Option<Change> {
    watch.apply(event, convert::node)
}

#[test]
fn list_is_applied_object_by_object_and_ends_with_all_names() {
    let mut watch = watch();
    assert!(apply(&mut watch, Event::Init).is_none());
    assert!(apply(&mut watch, Event::InitApply(node("of an aborted list"))).is_some());
    assert!(apply(&mut watch, Event::Init).is_none());
    for name in ["a", "", "b"] {
        let applied = apply(&mut watch, Event::InitApply(node(name)));
        let applied = applied.map(|change| match change {
            Change::Apply(object) => object.name().to_string(),
            other => panic!("{other:?}"),
        });
        assert_eq!(applied.as_deref(), (!name.is_empty()).then_some(name));
    }
    let names = ["a", "b"].map(ObjectName::cluster).to_vec();
    assert_eq!(apply(&mut watch, Event::InitDone), Some(Change::Retain(Kind::Node, names)));
}

#[test]
fn later_events_apply_or_delete_one_object() {
    let mut watch = watch();
    match apply(&mut watch, Event::Apply(node("a"))) {
        Some(Change::Apply(object)) => assert_eq!(object.name().to_string(), "a"),
        other => panic!("{other:?}"),
    }
    for event in [Event::Delete(node("a")), Event::Apply(node(""))] {
        let change = apply(&mut watch, event);
        assert!(matches!(change, Some(Change::Delete(Kind::Node, _))), "{change:?}");
    }
}

#[test]
fn jitter_is_between_0_and_1_and_varies() {
    let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
    assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)), "{numbers:?}");
    assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n > 0.5));
}

/// Its API server is upgraded after the second request. kube requests when the stream is polled.
#[tokio::test(start_paused = true)]
async fn server_without_service_cidrs_is_asked_again_every_ten_minutes() {
    let not_served = || {
        let status = Status { code: 404, ..Status::default() };
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status.boxed())))
    };
    let object =
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "a" } })).unwrap();
    let list = [Event::Init, Event::InitApply(object), Event::InitDone];
    let responses = [not_served(), not_served()].into_iter().chain(list.map(Ok));
    let (events, mut changes) = mpsc::channel(8);
    let sink = Sink { events, event: |change| change };
    // Jitter that changes nothing.
    let retry = Retries::new(|| 0.5).watch();
    let state = Watches::default().add("ServiceCIDR");
    let watch = Watch::new(Kind::ServiceCidr, Absence::Empty, state);
    let start = Instant::now();
    tokio::spawn(watch.follow(stream::iter(responses), convert::service_cidr, retry, sink));
    let mut arrived = Vec::new();
    while let Ok(Some(change)) = timeout(10 * NOT_SERVED, changes.recv()).await {
        let names = match change {
            Change::Apply(object) => vec![object.name().to_string()],
            Change::Retain(Kind::ServiceCidr, names) => {
                names.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        };
        arrived.push((start.elapsed().as_secs(), names));
    }
    let a = || vec!["a".to_owned()];
    assert_eq!(arrived, [(0, vec![]), (1200, a()), (1200, a())]);
}
