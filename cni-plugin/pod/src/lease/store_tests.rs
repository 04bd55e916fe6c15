//! The folder of the leases: damage, migration, what a crash leaves.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::fixture::{at, lease};
use super::*;
use crate::identity;

pub(super) const SUBNET: &str = "10.244.1.0/24";

pub(super) fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    (dir, store)
}

pub(super) fn open(store: &Store, drafts: Vec<Draft>) -> (LockedStore<'_>, Opened) {
    let locked = store.lock("test").unwrap();
    let opened = locked.open(|| Ok::<_, StoreError>(drafts)).unwrap();
    (locked, opened)
}

pub(super) fn request(container_id: &str) -> Request {
    Request {
        key: lease(container_id).key,
        network: "sluice".into(),
        pod_namespace: Some("default".into()),
        pod_name: Some("web-0".into()),
        pod_uid: Some("u1".into()),
        netns: "/run/netns/c1".into(),
        host_ports: Vec::new(),
        netns_cookie: None,
    }
}

pub(super) fn allocate(locked: &LockedStore<'_>, store: &Store, container_id: &str) -> Lease {
    let in_use = store.in_use("").unwrap();
    let subnet = SUBNET.parse().unwrap();
    locked.allocate(&in_use, subnet, request(container_id), &at(1)).unwrap().unwrap()
}

pub(super) fn path_of(store: &Store, lease: &Lease) -> std::path::PathBuf {
    store.leases_dir().join(Entry::of(lease).file_name())
}

#[test]
fn uid_of_the_pod_is_in_its_lease_and_absent_in_one_of_a_former_version() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let lease = allocate(&locked, &store, "c1");
    assert_eq!(lease.pod_uid.as_deref(), Some("u1"));
    assert_eq!(store.read().unwrap().leases, std::slice::from_ref(&lease));
    let mut written = serde_json::to_value(&lease).unwrap();
    written.as_object_mut().unwrap().remove("podUid").unwrap();
    let former = Lease::from_json(written.to_string().as_bytes()).unwrap();
    assert_eq!(former, Lease { pod_uid: None, ..lease });
}

/// A lease of the fixture's kind with its own attachment and address.
pub(super) fn numbered(n: u8) -> Lease {
    Lease { address: [10, 244, 1, n].into(), index: n.into(), ..lease(&format!("c{n}")) }
}

/// The same, as a former version wrote it.
fn former(leases: &[Lease]) -> serde_json::Value {
    let leases: Vec<_> = leases
        .iter()
        .map(|lease| {
            let mut lease = serde_json::to_value(lease).unwrap();
            for field in ["index", "generation"] {
                lease.as_object_mut().unwrap().remove(field).unwrap();
            }
            lease
        })
        .collect();
    serde_json::json!({
        "subnet": SUBNET, "cursor": "10.244.1.7", "leases": leases,
        "released": [
            { "address": "10.244.1.2", "at": { "bootId": "zero", "seconds": 900 } },
            { "address": "10.244.1.3", "at": { "bootId": "one", "seconds": 3 } },
        ],
    })
}

#[test]
fn a_damaged_file_concerns_its_lease_only() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let leases = ["a", "b", "c"].map(|id| allocate(&locked, &store, id));
    let [a, b, c] = &leases;
    for damage in ["", "{", "[1]", "null"] {
        fs::write(path_of(&store, b), damage).unwrap();
        let all = store.read().unwrap();
        assert_eq!(all.leases, [a.clone(), c.clone()], "{damage:?}");
        assert_eq!(all.damaged, [Entry::of(b)], "{damage:?}");
        assert_eq!(store.find(&a.key).unwrap().as_ref(), Some(a));
        assert_eq!(store.find(&b.key).unwrap_err().source.kind(), std::io::ErrorKind::InvalidData);
        // Its address and index stay in use.
        let next = allocate(&locked, &store, "next");
        assert!(leases.iter().all(|l| l.address != next.address && l.index != next.index));
        locked.release([&Entry::of(&next)], &at(1)).unwrap();
    }
    // The content of another lease is damage, too: two pods would have one address.
    fs::copy(path_of(&store, a), path_of(&store, b)).unwrap();
    assert_eq!(store.read().unwrap().damaged, [Entry::of(b)]);

    // From its device, with the number of the alias.
    let number = Number { index: b.index, generation: b.generation };
    let draft = Draft { lease: b.clone(), number: Some(number) };
    locked.mend(&[Entry::of(b)], &[draft], &at(1)).unwrap();
    assert_eq!(store.read().unwrap().leases, leases.clone());
    // Without a number: the index of the file name, and a new generation.
    fs::write(path_of(&store, b), "").unwrap();
    let draft = Draft { lease: b.clone(), number: None };
    locked.mend(&[Entry::of(b)], &[draft], &at(1)).unwrap();
    let mended = store.find(&b.key).unwrap().unwrap();
    assert_eq!((mended.index, mended.address), (b.index, b.address));
    assert_ne!(mended.generation, b.generation);
    // Without a device the lease ends.
    fs::write(path_of(&store, b), "damage").unwrap();
    locked.mend(&[Entry::of(b)], &[], &at(1)).unwrap();
    assert_eq!(
        store.read().unwrap(),
        Leases { leases: vec![a.clone(), c.clone()], damaged: vec![] }
    );
    let kept = store.dir().join(format!("{}.corrupt-2", Entry::of(b).file_name()));
    assert_eq!(fs::read_to_string(kept).unwrap(), "damage");
}

#[test]
fn the_file_of_a_former_version_is_taken_over_once() {
    let (dir, store) = store();
    let leases = [numbered(7), numbered(9)];
    fs::write(dir.path().join("leases.json"), former(&leases).to_string()).unwrap();
    assert!(store.has_former());
    let (locked, opened) = open(&store, vec![Draft { lease: numbered(5), number: None }]);
    assert_eq!((opened.migrated, opened.rebuilt), (2, 0), "no need to look at the devices");
    let taken = store.read().unwrap().leases;
    assert!(taken.iter().all(|lease| lease.generation != 0));
    let expected = |n: usize| Lease {
        index: n as u32,
        generation: taken[n].generation,
        host_ports: None,
        netns_cookie: None,
        ..leases[n].clone()
    };
    assert_eq!(taken, [expected(0), expected(1)]);
    assert!(!store.has_former() && store.is_open());
    // Cursor and reuse delays too: 10.244.1.8 is next.
    assert_eq!(allocate(&locked, &store, "next").address, std::net::Ipv4Addr::new(10, 244, 1, 8));
    let allocation = fs::read(dir.path().join("allocation.json")).unwrap();
    let released = Allocation::from_json(&allocation).unwrap().released;
    assert_eq!(released.iter().map(|r| r.at).collect::<Vec<_>>(), [None, Some(3)]);
}

#[test]
fn a_former_version_that_ran_again_is_right_about_the_leases() {
    let (dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let kept = allocate(&locked, &store, "kept");
    let stale = allocate(&locked, &store, "stale");
    let moved = allocate(&locked, &store, "moved");
    // Meanwhile: stale ended and its address has a new pod; moved got another address.
    let new = Lease { address: stale.address, ..lease("new") };
    let moved_now = Lease { address: [10, 244, 1, 99].into(), ..moved.clone() };
    let text = former(&[kept.clone(), new.clone(), moved_now.clone()]).to_string();
    fs::write(dir.path().join("leases.json"), text).unwrap();
    let opened = locked.open(|| Ok::<_, StoreError>(vec![])).unwrap();
    assert_eq!(opened.migrated, 2);
    let found: BTreeSet<_> =
        store.read().unwrap().leases.into_iter().map(|l| (l.address, l.key)).collect();
    let expected = [
        (kept.address, kept.key.clone()),
        (new.address, new.key),
        (moved_now.address, moved_now.key),
    ];
    assert_eq!(found, BTreeSet::from(expected));
    assert!(store.holds(&kept).unwrap(), "a lease that is known keeps its number");
    let indexes: BTreeSet<u32> = store.entries().unwrap().iter().map(|e| e.index).collect();
    assert_eq!(indexes.len(), 3);
}

#[test]
fn lost_leases_are_rebuilt_and_a_damaged_former_file_is_kept() {
    let (dir, store) = store();
    let draft =
        |n: u8, index| Draft { lease: numbered(n), number: Some(Number { index, generation: 5 }) };
    // Remains of an open that was interrupted.
    fs::create_dir_all(dir.path().join("leases.new")).unwrap();
    fs::write(dir.path().join("leases.new/10.0.0.1+1+slc0"), "").unwrap();
    fs::write(dir.path().join("leases.json"), "{").unwrap();
    let (locked, opened) = open(&store, vec![draft(7, 3), draft(8, 3)]);
    assert_eq!((opened.migrated, opened.rebuilt), (0, 2));
    assert_eq!(fs::read_to_string(opened.kept.unwrap()).unwrap(), "{");
    let indexes: Vec<u32> = store.entries().unwrap().iter().map(|e| e.index).collect();
    assert_eq!(indexes, [3, 0]);
    // Devices are looked at only if they are needed.
    assert_eq!(locked.open(|| Err(failed())).unwrap(), Opened::default());
    fs::remove_dir_all(store.leases_dir()).unwrap();
    assert!(locked.open(|| Err(failed())).is_err());
    assert!(!store.is_open(), "an empty state would allocate addresses of running pods");
}

fn failed() -> StoreError {
    let source = std::io::Error::other("refused");
    StoreError { operation: "list", path: Path::new("devices").into(), source }
}

#[test]
fn what_a_crash_leaves_is_ignored() {
    let (dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let a = allocate(&locked, &store, "a");
    fs::write(dir.path().join("new"), "{").unwrap();
    // Between the two files of a release.
    let text = fs::read(path_of(&store, &a)).unwrap();
    locked.release([&Entry::of(&a)], &at(1)).unwrap();
    fs::write(path_of(&store, &a), text).unwrap();
    assert_eq!(store.read().unwrap().leases, std::slice::from_ref(&a));
    let b = allocate(&locked, &store, "b");
    assert_ne!((a.address, a.index), (b.address, b.index));
    locked.release([&Entry::of(&a)], &at(2)).unwrap();
    let released = Allocation::from_json(&fs::read(dir.path().join("allocation.json")).unwrap());
    assert_eq!(released.unwrap().released, [Released { address: a.address, at: Some(2) }]);
    // A lost or damaged allocation costs the reuse delays, not the leases.
    for damage in ["", "[]"] {
        fs::write(dir.path().join("allocation.json"), damage).unwrap();
        let next = allocate(&locked, &store, "c");
        assert_ne!(next.address, b.address);
        locked.release([&Entry::of(&next)], &at(3)).unwrap();
    }
}

#[test]
fn reclaim_ends_the_leases_that_are_not_live() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let [a, b, c] = ["a", "b", "c"].map(|id| allocate(&locked, &store, id));
    fs::write(path_of(&store, &c), "").unwrap();
    // What has changed since it was read is left alone.
    let read = [Lease { generation: 1, ..a.clone() }, b.clone()];
    assert_eq!(locked.reclaim(read, &at(1), |lease| lease.key == b.key, |_| true).unwrap(), []);
    let leases = store.read().unwrap().leases;
    let dead = locked.reclaim(leases, &at(1), |lease| lease.key == b.key, |_| true).unwrap();
    assert_eq!(dead, [a]);
    assert_eq!(store.read().unwrap(), Leases { leases: vec![b], damaged: vec![Entry::of(&c)] });
}

#[test]
fn rows_of_a_reclaimed_lease_are_removed_while_it_exists() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, vec![]);
    let [a, b, live] = ["a", "b", "live"].map(|id| allocate(&locked, &store, id));
    let mut removed = Vec::new();
    let remove_rows = |lease: &Lease| {
        assert!(store.holds(lease).unwrap(), "another pod can have the address");
        removed.push(lease.clone());
        // The rows of b cannot be removed: its address would lead to another pod.
        lease.key == a.key
    };
    let leases = store.read().unwrap().leases;
    let dead = locked.reclaim(leases, &at(1), |lease| lease.key == live.key, remove_rows).unwrap();
    assert_eq!(dead, std::slice::from_ref(&a));
    assert_eq!(removed, [a, b.clone()]);
    assert_eq!(store.read().unwrap().leases, [b, live]);
}

#[test]
fn the_default_folder_of_former_versions_means_todays() {
    let store = Store::new(crate::FORMER_STATE_DIR);
    assert_eq!(store.dir(), Path::new("/run/sluice/cni"));
    let names: Vec<_> = store.former.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["/run/sluice/cni/leases.json", "/var/lib/sluice/cni/leases.json"]);
    assert_eq!(Store::new("/other").former.len(), 1);
}

proptest! {
    /// Any damage of one file: each lease is either read as it was written or reported.
    #[test]
    fn a_changed_file_is_the_same_lease_or_damaged(at_byte: prop::sample::Index, byte: u8) {
        let lease = lease("c1");
        let mut bytes = serde_json::to_vec(&lease).unwrap();
        *at_byte.get_mut(&mut bytes) = byte;
        let (_dir, store) = store();
        open(&store, vec![]);
        fs::write(path_of(&store, &lease), &bytes).unwrap();
        let Leases { leases, damaged } = store.read().unwrap();
        prop_assert_eq!(leases.len() + damaged.len(), 1);
        for read in leases {
            prop_assert_eq!(Entry::of(&read), Entry::of(&lease));
            prop_assert!(read.generation != 0);
            prop_assert_eq!(identity::host_ifname(&read.key), read.host_ifname);
        }
    }
}

#[test]
fn only_changed_files_are_read_again() {
    let (_dir, store) = store();
    let (locked, _) = open(&store, Vec::new());
    let [first, second] = ["c1", "c2"].map(|id| allocate(&locked, &store, id));
    let (stamp, mut known) = (store.stamp(), KnownLeases::default());
    assert_eq!(store.read_changed(&mut known).unwrap(), store.read().unwrap());
    // A change that its time and size do not show is not seen.
    let path = path_of(&store, &first);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, " ".repeat(text.len())).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(store.read_changed(&mut known).unwrap().leases, [first.clone(), second.clone()]);
    assert_eq!(store.stamp(), stamp);
    // Damaged in place, deleted, new.
    fs::write(&path, "{").unwrap();
    locked.release([&Entry::of(&second)], &at(1)).unwrap();
    let third = allocate(&locked, &store, "c3");
    let read = store.read_changed(&mut known).unwrap();
    assert_eq!((read.leases, read.damaged), (vec![third], vec![Entry::of(&first)]));
    allocate(&locked, &store, "c4");
    assert_ne!(store.stamp(), stamp);
}
