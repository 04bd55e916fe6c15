//! The lease file.
//!
//! A state that parses is written and read again without loss, whatever another release or a
//! damaged disk left in it. Its next address is a pod address that no lease has, and reclaiming
//! every lease loses no address.

use std::collections::BTreeSet;

use sluice_pod::lease::{BootInstant, State, Subnet};

pub(super) fn run(data: &[u8]) {
    let Ok(state) = State::from_json(data) else { return };
    let written = serde_json::to_vec(&state).expect("a state has JSON");
    assert_eq!(State::from_json(&written).expect("written by Sluice"), state);

    let now = BootInstant { boot_id: "b".to_owned(), seconds: 1_000 };
    if let Some(subnet) = state.subnet {
        choose(state.clone(), subnet, &now);
    }
    choose(state.clone(), "10.244.1.0/30".parse().unwrap(), &now);

    let mut reclaimed = state.clone();
    let ended = reclaimed.reclaim(&now, |_| false);
    assert_eq!(ended.len(), state.leases.len());
    assert!(reclaimed.leases.is_empty());
    for lease in &state.leases {
        assert!(!lease.owner().is_empty());
        let releases = reclaimed.released.iter().filter(|r| r.address == lease.address);
        let times: Vec<&BootInstant> = releases.map(|r| &r.at).collect();
        assert_eq!(times, [&now]);
    }
}

fn choose(mut state: State, subnet: Subnet, now: &BootInstant) {
    let leased: BTreeSet<_> = state.leases.iter().map(|lease| lease.address).collect();
    let released: BTreeSet<_> = state.released.iter().map(|r| r.address).collect();
    // Sluice writes an address once.
    let once = released.len() == state.released.len();
    if let Ok(address) = state.choose(subnet, now) {
        assert!((subnet.first()..=subnet.last()).contains(&address));
        assert!(!leased.contains(&address));
        assert!(!once || state.released.iter().all(|r| r.address != address), "{address}");
        assert_eq!((state.subnet, state.cursor), (Some(subnet), Some(address)));
    }
}
