//! Lease files: one lease, the allocation, and the one file of former versions.
//!
//! What parses is written and read again without loss, whatever another release or a damaged disk
//! left in it. The next address is a pod address that no lease has, and the reuse delay of a
//! released address begins once.

use std::collections::BTreeSet;

use sluice_pod::lease::{Allocation, BootInstant, Entry, FormerState, Lease, Subnet};

pub(super) fn run(data: &[u8]) {
    if let Ok(lease) = Lease::from_json(data) {
        let written = serde_json::to_vec(&lease).expect("a lease has JSON");
        assert_eq!(Lease::from_json(&written).expect("written by Sluice"), lease);
        assert!(!lease.owner().is_empty());
        if let Some(entry) = Entry::parse(&Entry::of(&lease).file_name()) {
            assert_eq!(entry, Entry::of(&lease));
        }
    }
    if let Ok(allocation) = Allocation::from_json(data) {
        let written = serde_json::to_vec(&allocation).expect("an allocation has JSON");
        assert_eq!(Allocation::from_json(&written).expect("written by Sluice"), allocation);
        choose(&allocation, &BTreeSet::new());
    }
    if let Ok(former) = FormerState::from_json(data) {
        let leased = former.drafts().iter().map(|draft| draft.lease.address).collect();
        choose(&former.allocation(), &leased);
    }
}

fn choose(allocation: &Allocation, leased: &BTreeSet<std::net::Ipv4Addr>) {
    let now = BootInstant { boot_id: "b".to_owned(), seconds: 1_000 };
    let released: BTreeSet<_> = allocation.released.iter().map(|r| r.address).collect();
    // Sluice writes an address once.
    let once = released.len() == allocation.released.len();
    let small: Subnet = "10.244.1.0/30".parse().expect("a range");
    for subnet in allocation.subnet.into_iter().chain([small]) {
        let mut allocation = allocation.clone();
        let Ok(address) = allocation.choose(subnet, |address| leased.contains(&address), &now)
        else {
            continue;
        };
        assert!((subnet.first()..=subnet.last()).contains(&address));
        assert!(!leased.contains(&address));
        assert!(!once || allocation.released.iter().all(|r| r.address != address), "{address}");
        assert_eq!((allocation.subnet, allocation.cursor), (Some(subnet), Some(address)));
        allocation.release(address, &now);
        let releases = allocation.released.iter().filter(|r| r.address == address);
        assert_eq!(releases.map(|r| r.at).collect::<Vec<_>>(), [Some(1_000)]);
    }
}
