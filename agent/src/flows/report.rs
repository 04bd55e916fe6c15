//! What a round counts for the metrics: entries of the maps, source ports by destination, flows by pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_abi::{Addr, FlowEntry};
use sluice_pod::lease::Lease;

use super::judge::Counts;
use crate::kernel::MapFill;

/// Destinations that are counted at a time.
const DESTINATIONS: usize = 4096;
/// Destinations that are named.
const NAMED: usize = 10;
/// Ports from which a destination is named: about 3 % of those that masquerading has. Ordinary
/// destinations have no series of their own, so their names do not accumulate.
const NAMED_FROM: u32 = 1000;

/// Protocol, address and port outside the cluster.
pub type Destination = (u8, Addr, u16);

/// Counts of the last rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Fill of the maps whose entries come and go.
    pub maps: Vec<MapFill>,
    /// Ports that masquerading uses for the destination with the most.
    pub ports_max: u32,
    /// The destinations with the most ports, if they have many.
    pub destinations: Vec<(Destination, u32)>,
    /// Namespace, name, entries of its flows.
    pub pods: Vec<(String, String, u32)>,
}

/// A [`Report`] that the collection writes and the metrics read.
#[derive(Clone, Debug, Default)]
pub struct SharedReport(Arc<Mutex<Report>>);

/// Source ports by destination. Beyond [`DESTINATIONS`], each further destination costs every counted
/// one a port (Misra-Gries): counts are too low by at most flows / [`DESTINATIONS`], which is 64.
#[derive(Debug, Default)]
pub struct SourcePortCounts(HashMap<Destination, u32>);

// === impl SharedReport ===

impl SharedReport {
    /// The last report.
    pub fn get(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

// === impl SourcePortCounts ===

impl SourcePortCounts {
    /// Adds a flow, by its main entry.
    pub fn add(&mut self, entry: &FlowEntry) {
        if entry.kind().is_some_and(|kind| kind.is_masqueraded()) {
            let tuple = entry.tuple;
            self.add_port((tuple.proto, tuple.dst, tuple.dport.get()));
        }
    }

    fn add_port(&mut self, destination: Destination) {
        if self.0.len() < DESTINATIONS || self.0.contains_key(&destination) {
            *self.0.entry(destination).or_default() += 1;
            return;
        }
        self.0.retain(|_, ports| {
            *ports -= 1;
            *ports > 0
        });
    }

    /// Most ports of one destination, and the destinations to name.
    pub fn largest(self) -> (u32, Vec<(Destination, u32)>) {
        let most = self.0.values().copied().max().unwrap_or(0);
        let mut named: Vec<_> = self.0.into_iter().filter(|(_, n)| *n >= NAMED_FROM).collect();
        named.sort_by_key(|(destination, ports)| {
            (std::cmp::Reverse(*ports), destination.0, destination.1.0, destination.2)
        });
        named.truncate(NAMED);
        (most, named)
    }
}

/// Flows by the names of their pods; pods without flows are omitted.
pub fn by_pod(leases: Vec<Lease>, counts: &Counts) -> Vec<(String, String, u32)> {
    let named = |lease: Lease| {
        let entries = counts.of(lease.index);
        let (namespace, name) = lease.pod_namespace.zip(lease.pod_name)?;
        (entries > 0).then_some((namespace, name, entries))
    };
    leases.into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use sluice_abi::{FlowKey, FlowKind, PortBe, proto};
    use sluice_pod::lease::{BootInstant, LeaseKey};

    use super::*;

    fn flow(kind: FlowKind, dst: [u8; 4], dport: u16) -> FlowEntry {
        let tuple = FlowKey {
            proto: proto::UDP,
            dst: Addr::v4(dst),
            dport: PortBe::new(dport),
            ..FlowKey::default()
        };
        FlowEntry { tuple, other: tuple, kind: kind as u8, ..FlowEntry::default() }
    }

    #[test]
    fn destinations_with_many_source_ports_are_named() {
        let mut counts = SourcePortCounts::default();
        for _ in 0..1500 {
            counts.add(&flow(FlowKind::Masquerade, [8, 8, 8, 8], 53));
            counts.add(&flow(FlowKind::Direct, [10, 244, 2, 2], 53));
        }
        for n in 0..999 {
            counts.add(&flow(FlowKind::MasqueradedService, [9, 9, 9, 9], 53));
            counts.add(&flow(FlowKind::Masquerade, [1, 1, 1, 1], n));
        }
        let (most, named) = counts.largest();
        assert_eq!(most, 1500);
        assert_eq!(named, [((proto::UDP, Addr::v4([8, 8, 8, 8]), 53), 1500)]);
    }

    #[test]
    fn a_scan_of_many_destinations_takes_bounded_memory_and_hides_no_large_one() {
        let mut counts = SourcePortCounts::default();
        for n in 0..100_000u32 {
            let [a, b, c, d] = (0x0100_0000 + n).to_be_bytes();
            counts.add(&flow(FlowKind::Masquerade, [a, b, c, d], 53));
            if n % 10 == 0 {
                counts.add(&flow(FlowKind::Masquerade, [8, 8, 8, 8], 53));
            }
        }
        assert!(counts.0.len() <= DESTINATIONS);
        let (most, named) = counts.largest();
        assert!((10_000 - 64..=10_000).contains(&most), "{most}");
        assert_eq!(named.len(), 1);
    }

    #[test]
    fn flows_have_the_names_of_their_pods() {
        let lease = |index, name: Option<&str>| Lease {
            address: [10, 244, 1, 7].into(),
            index,
            generation: 1,
            key: LeaseKey { container_id: "c1".into(), ifname: "eth0".into() },
            network: "sluice".into(),
            pod_namespace: name.map(|_| "default".into()),
            pod_name: name.map(str::to_owned),
            pod_uid: None,
            netns: String::new(),
            host_ifname: "slc0".into(),
            since: BootInstant { boot_id: "b".into(), seconds: 1 },
            host_ports: None,
            netns_cookie: None,
        };
        let mut counts = Counts::default();
        let client = sluice_abi::PodRef { index: 7, generation: 1 };
        counts.add(&FlowEntry { client, ..flow(FlowKind::Direct, [1, 1, 1, 1], 1) });
        let leases = vec![lease(7, Some("web-0")), lease(8, Some("idle")), lease(9, None)];
        assert_eq!(by_pod(leases, &counts), [("default".into(), "web-0".into(), 1)]);
    }
}
