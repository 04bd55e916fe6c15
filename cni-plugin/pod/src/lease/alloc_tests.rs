//! The allocator against a slow model that knows each address's whole history.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> BootInstant {
    BootInstant { boot_id: "one".into(), seconds }
}

fn lease(n: usize, address: Ipv4Addr, now: &BootInstant) -> Lease {
    Lease {
        address,
        key: LeaseKey { container_id: format!("c{n}"), ifname: "eth0".into() },
        network: "sluice".into(),
        pod_namespace: None,
        pod_name: None,
        netns: String::new(),
        host_ifname: format!("slc{n}"),
        since: now.clone(),
    }
}

/// What the model knows of one address.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Fresh,
    Leased,
    Freed(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Add,
    Del(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Add),
        3 => (0usize..40).prop_map(Step::Del),
        1 => (0u64..15).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn agrees_with_a_model_that_knows_each_address(steps in steps(), prefix in 26u8..=30) {
        let subnet: Subnet = format!("10.1.2.0/{prefix}").parse().unwrap();
        // The model: every address one by one, straight from the words of the design.
        let all: Vec<Ipv4Addr> = (2..(1u32 << (32 - prefix)) - 1)
            .map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 2, 0)) + n))
            .collect();
        prop_assert_eq!(all.len(), subnet.capacity());
        let mut fate = vec![Fate::Fresh; all.len()];
        let mut order = 0u64; // releases within one second have an order too
        let mut freed_order = vec![0u64; all.len()];
        let mut last: Option<usize> = None;
        let (mut state, mut now, mut next) = (State::default(), 100u64, 0usize);

        for step in steps {
            match step {
                Step::Wait(s) => now += s,
                Step::Del(n) => {
                    let key = LeaseKey { container_id: format!("c{n}"), ifname: "eth0".into() };
                    if let Some(gone) = state.release(&key, &at(now)) {
                        let i = all.iter().position(|a| *a == gone.address).unwrap();
                        prop_assert!(fate[i] == Fate::Leased);
                        fate[i] = Fate::Freed(now);
                        order += 1;
                        freed_order[i] = order;
                    }
                }
                Step::Add => {
                    let from = last.map_or(0, |l| l + 1);
                    let fresh = (0..all.len())
                        .map(|k| (from + k) % all.len())
                        .find(|i| fate[*i] == Fate::Fresh);
                    let rested = (0..all.len())
                        .filter(|i| matches!(fate[*i], Fate::Freed(_)))
                        .min_by_key(|i| freed_order[*i]);
                    let expected = fresh.or(rested.filter(
                        |i| matches!(fate[*i], Fate::Freed(t) if now - t >= REUSE_DELAY_SECONDS),
                    ));
                    match state.choose(subnet, &at(now)) {
                        Ok(address) => {
                            let i = all.iter().position(|a| *a == address).unwrap();
                            prop_assert_eq!(Some(i), expected);
                            fate[i] = Fate::Leased;
                            last = Some(i);
                            state.leases.push(lease(next, address, &at(now)));
                            next += 1;
                        }
                        Err(AllocError::Resting { .. }) => {
                            prop_assert!(expected.is_none() && rested.is_some());
                        }
                        Err(AllocError::Exhausted { capacity, .. }) => {
                            prop_assert_eq!(capacity, all.len());
                            prop_assert!(fate.iter().all(|f| *f == Fate::Leased));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn state_reads_back_as_it_was_written(steps in steps()) {
        let subnet: Subnet = "10.9.8.0/27".parse().unwrap();
        let mut state = State::default();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Add => if let Ok(a) = state.choose(subnet, &at(n as u64)) {
                    state.leases.push(lease(n, a, &at(n as u64)));
                },
                Step::Del(k) => {
                    let key = LeaseKey { container_id: format!("c{k}"), ifname: "eth0".into() };
                    state.release(&key, &at(n as u64));
                }
                Step::Wait(_) => {}
            }
        }
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}

#[test]
fn ranges_and_their_edges() {
    for (text, first, last, capacity) in [
        ("10.244.1.0/24", "10.244.1.2", "10.244.1.254", 253),
        ("10.244.1.0/30", "10.244.1.2", "10.244.1.2", 1),
        ("10.0.0.0/8", "10.0.0.2", "10.255.255.254", (1 << 24) - 3),
    ] {
        let subnet: Subnet = text.parse().unwrap();
        assert_eq!(subnet.first().to_string(), first);
        assert_eq!(subnet.last().to_string(), last);
        assert_eq!(subnet.capacity(), capacity);
        assert_eq!(subnet.to_string(), text);
    }
    for text in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/31", "10.0.0.0/7", "fd00::/64", "a/24"] {
        assert!(text.parse::<Subnet>().is_err(), "{text}");
    }
}

#[test]
fn three_hundred_pods_one_after_the_other_meet_the_longest_gap() {
    let subnet: Subnet = "10.244.1.0/24".parse().unwrap();
    let mut state = State::default();
    let mut last_use = std::collections::BTreeMap::new();
    let mut smallest = usize::MAX;
    for n in 0..300 {
        let now = at(n as u64);
        let address = state.choose(subnet, &now).unwrap();
        if let Some(before) = last_use.insert(address, n) {
            smallest = smallest.min(n - before);
        }
        state.leases.push(lease(n, address, &now));
        state.release(&lease(n, address, &now).key, &now).unwrap();
    }
    assert_eq!(smallest, 253);
}

#[test]
fn a_reboot_ends_every_rest() {
    let subnet: Subnet = "10.0.0.0/30".parse().unwrap();
    let mut state = State::default();
    let address = state.choose(subnet, &at(5)).unwrap();
    state.leases.push(lease(1, address, &at(5)));
    assert!(matches!(state.choose(subnet, &at(5)), Err(AllocError::Exhausted { .. })));
    state.release(&lease(1, address, &at(5)).key, &at(6));
    let err = state.choose(subnet, &at(7)).unwrap_err();
    assert_eq!(err, AllocError::Resting { subnet, seconds: 9 });
    let rebooted = BootInstant { boot_id: "two".into(), seconds: 1 };
    assert_eq!(state.choose(subnet, &rebooted), Ok(address));
}

#[test]
fn a_new_range_keeps_the_old_leases_and_starts_over() {
    let (old, new): (Subnet, Subnet) =
        ("10.0.0.0/24".parse().unwrap(), "10.0.1.0/24".parse().unwrap());
    let mut state = State::default();
    let address = state.choose(old, &at(1)).unwrap();
    state.leases.push(lease(1, address, &at(1)));
    assert_eq!(state.choose(new, &at(2)).unwrap(), new.first());
    assert_eq!(state.leases.len(), 1);
}

#[test]
fn reclaim_takes_only_the_dead() {
    let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
    let mut state = State::default();
    for n in 0..4 {
        let address = state.choose(subnet, &at(1)).unwrap();
        state.leases.push(lease(n, address, &at(1)));
    }
    let gone = state.reclaim(&at(2), |l| l.key.container_id != "c2");
    assert_eq!(gone.len(), 1);
    assert_eq!(state.leases.len(), 3);
    assert_eq!(state.released[0].address, gone[0].address);
}
