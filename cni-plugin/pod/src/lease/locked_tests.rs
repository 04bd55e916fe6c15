//! What ADD allocates: index and generation; and what it and DEL find by the names of the files.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;

use super::fixture::{at, lease};
use super::store_tests::{SUBNET, allocate, numbered, open, path_of, request, store};
use super::*;

#[test]
fn index_is_the_lowest_free_one_and_the_generation_is_the_next() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let first: Vec<Lease> =
        ["a", "b", "c"].map(|id| allocate(&locked, &store, id)).into_iter().collect();
    assert_eq!(first.iter().map(|l| l.index).collect::<Vec<_>>(), [0, 1, 2]);
    locked.release([&Entry::of(&first[1])], &at(1)).unwrap();
    let again = allocate(&locked, &store, "d");
    assert_eq!(again.index, 1);
    assert_ne!(again.address, first[1].address);
    assert_eq!(again.generation, first[1].generation.wrapping_add(1).max(1));
    assert!(first.iter().chain([&again]).all(|lease| lease.generation != 0));
    assert_eq!(store.find(&again.key).unwrap(), Some(again.clone()));
    assert!(store.holds(&again).unwrap() && !store.holds(&first[1]).unwrap());
    assert_eq!(store.find(&first[1].key).unwrap(), None);
}

#[test]
fn no_index_is_given_beyond_the_last_one() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let in_use = |count: u32| {
        let mut in_use = InUse::default();
        for index in 0..count {
            in_use.add(&Lease { address: (0x0b00_0000 + index).into(), index, ..lease("x") });
        }
        in_use
    };
    let subnet = SUBNET.parse().unwrap();
    let allocate = |in_use: &InUse| {
        locked.allocate(in_use, subnet, request("c"), &at(1)).unwrap().map(|lease| lease.index)
    };
    assert_eq!(allocate(&in_use(INDEX_MAX)), Err(AllocError::TooManyPods));
    assert_eq!(allocate(&in_use(INDEX_MAX - 1)), Ok(INDEX_MAX - 1));
}

/// The listing of ADD and the search of DEL agree with the entries.
#[test]
fn what_is_in_use_is_what_the_names_of_the_files_say() {
    let (_dir, store) = store();
    assert_eq!(store.in_use("").unwrap(), InUse::default(), "no folder");
    let (locked, _) = open(&store, vec![]);
    let leases = ["a", "b", "c"].map(|id| allocate(&locked, &store, id));
    fs::write(path_of(&store, &leases[2]), "{").unwrap();
    for other in ["lock", "10.244.1.9+9", ".10.244.1.9+9+slc0"] {
        fs::write(store.leases_dir().join(other), "").unwrap();
    }
    let mut expected = InUse::default();
    leases.iter().rev().for_each(|lease| expected.add(lease));
    for (own, entry) in [("", None), (&*leases[1].host_ifname, Some(Entry::of(&leases[1])))] {
        let in_use = store.in_use(own).unwrap();
        assert_eq!(in_use.own(), entry.as_ref());
        assert_eq!(BTreeSet::from_iter(in_use.indexes()), BTreeSet::from_iter(expected.indexes()));
        for n in 0..=255 {
            let address = [10, 244, 1, n].into();
            assert_eq!(in_use.has(address), expected.has(address), "{address}");
        }
    }
    for lease in &leases {
        assert_eq!(store.find_entry(&lease.key).unwrap(), Some(Entry::of(lease)));
    }
    assert_eq!(store.find_entry(&lease("other").key).unwrap(), None);
    assert_eq!(store.lease_of(&Entry::of(&leases[0])).as_ref(), Some(&leases[0]));
    assert_eq!(store.lease_of(&Entry::of(&leases[2])), None, "damaged");
}

/// The next lease of an index must not be taken for one that was rebuilt.
#[test]
fn generations_go_on_after_those_of_leases_that_were_rebuilt() {
    let (dir, store) = store();
    let number = |n: u8| Some(Number { index: n.into(), generation: 1000 + u32::from(n) });
    let drafts = [0, 1].map(|n| Draft { lease: numbered(n + 2), number: number(n) });
    let (locked, opened) = open(&store, drafts.into());
    assert_eq!(opened.rebuilt, 2);
    // Damaged, and rebuilt with the number of its device, after the counters were lost too.
    fs::remove_file(dir.path().join("generations")).unwrap();
    let damaged = store.entries().unwrap().remove(0);
    fs::write(store.leases_dir().join(damaged.file_name()), "{").unwrap();
    let draft = Draft { lease: numbered(2), number: number(0) };
    locked.mend(std::slice::from_ref(&damaged), &[draft], &at(1)).unwrap();
    locked.release([&damaged], &at(1)).unwrap();
    assert_eq!(allocate(&locked, &store, "next").generation, 1001);
}
