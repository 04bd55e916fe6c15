//! Events, and the state that results from them.

use sluice_core::model::{Kind, ObjectName, Protocol};

use super::*;
use crate::harness::{Harness, node, service};

/// The concerns that an event marks.
fn marked(event: Event) -> Vec<Concern> {
    let mut state = Harness::idle_state();
    state.apply(event, || true);
    state.dirty.into_iter().collect()
}

#[test]
fn events_mark_the_concerns_that_they_affect() {
    use Concern::{
        CniFiles, Devices, Forwarding, HostPorts, HostState, Pins, PodNetns, Pods, Routes,
        SocketPrograms,
    };
    let objects = |change| marked(Event::Objects(change));
    let this_node = [HostState, Routes, CniFiles];
    let of = |name| node(name, "172.18.0.2", "10.244.1.0/24");
    assert_eq!(objects(Change::Apply(of("n1"))), this_node);
    assert_eq!(objects(Change::Delete(Kind::Node, ObjectName::cluster("n1"))), this_node);
    assert_eq!(objects(Change::Replace(Kind::Node, vec![])), this_node);
    assert_eq!(objects(Change::Apply(of("n2"))), []);
    assert_eq!(objects(Change::Delete(Kind::Node, ObjectName::cluster("n2"))), []);
    assert_eq!(objects(Change::Replace(Kind::Service, vec![])), []);
    assert_eq!(objects(Change::Apply(service("a", Protocol::Tcp, "10.96.0.1", 1))), []);
    assert_eq!(marked(Event::HostNetwork), [HostState, Devices, Forwarding, Routes]);
    assert_eq!(
        marked(Event::Leases),
        [Concern::Policy, Pods, PodNetns, HostPorts, Concern::StaleSockets]
    );
    assert_eq!(marked(Event::PodNetwork(PodScope::all())), [Pods]);
    assert_eq!(marked(Event::Forwarding), [Forwarding]);
    assert_eq!(marked(Event::Poll), [Pins, Devices, SocketPrograms]);
    assert_eq!(marked(Event::CniFiles), [CniFiles, Concern::OtherNetworks]);
    assert_eq!(marked(Event::Stop), []);
}

#[test]
fn every_tenth_resync_compares_the_tables() {
    let mut state = Harness::idle_state();
    let compared: Vec<u32> = (1..=20)
        .filter(|_| {
            state.apply(Event::Resync, || true);
            assert!(state.take_resync());
            state.take_comparison()
        })
        .collect();
    assert_eq!(compared, [10, 20]);
}

#[test]
fn nothing_is_compiled_before_every_list_has_arrived() {
    let mut state = Harness::idle_state();
    state
        .apply(Event::Objects(Change::Apply(service("a", Protocol::Tcp, "10.96.0.1", 1))), || true);
    for kind in [Kind::Node, Kind::Service] {
        state.apply(Event::Objects(Change::Replace(kind, vec![])), || true);
        state.compile();
        assert!(!state.take_dirty(Concern::ServiceMaps));
    }
    state
        .apply(Event::Objects(Change::Apply(service("a", Protocol::Tcp, "10.96.0.1", 1))), || true);
    state.apply(Event::Objects(Change::Replace(Kind::EndpointSlice, vec![])), || true);
    state.compile();
    assert!(state.take_dirty(Concern::ServiceMaps));
    assert_eq!(state.tables().frontends().count(), 2);
}
