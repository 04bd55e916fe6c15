//! [`Allocation`] against a slow model that holds the history of each address.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::fixture::at;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// ADD: choose an address and lease it.
    Add,
    /// DEL of the attachment with this number.
    Del(usize),
    /// Seconds pass.
    Wait(u64),
    /// Leases whose number leaves this remainder modulo 5 have lost their pod.
    Reclaim(usize),
    /// The node gets another range.
    Range(usize),
    /// The machine reboots.
    Reboot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => Just(Step::Add),
        6 => (0usize..60).prop_map(Step::Del),
        3 => (0u64..15).prop_map(Step::Wait),
        1 => (0usize..5).prop_map(Step::Reclaim),
        1 => (0usize..4).prop_map(Step::Range),
        1 => Just(Step::Reboot),
    ];
    prop::collection::vec(step, 0..200)
}

const RANGES: [&str; 4] = ["10.1.2.0/28", "10.1.2.16/29", "10.1.2.0/27", "10.9.0.0/30"];

/// The rules of the design, address by address.
#[derive(Default)]
struct Model {
    range: usize,
    range_in_use: Option<usize>,
    /// Addresses in use, by attachment. Those of a former range stay.
    leased: BTreeMap<usize, Ipv4Addr>,
    /// Boot, second and order of the last release, forgotten for addresses outside a new range.
    released: BTreeMap<Ipv4Addr, (u64, u64, usize)>,
    last: Option<Ipv4Addr>,
    boot: u64,
    now: u64,
    order: usize,
    attachments: usize,
}

impl Model {
    fn pods(&self) -> Vec<Ipv4Addr> {
        let (network, prefix) = RANGES[self.range].split_once('/').unwrap();
        let network = u32::from(network.parse::<Ipv4Addr>().unwrap());
        let size = 1u32 << (32 - prefix.parse::<u32>().unwrap());
        (2..size - 1).map(|n| Ipv4Addr::from(network + n)).collect()
    }

    fn now(&self) -> BootInstant {
        BootInstant { boot_id: format!("boot {}", self.boot), seconds: self.now }
    }

    fn release(&mut self, n: usize) -> Option<Ipv4Addr> {
        let address = self.leased.remove(&n)?;
        self.order += 1;
        self.released.insert(address, (self.boot, self.now, self.order));
        Some(address)
    }

    /// The address that ADD must get; `Err` with whether an address waits for its reuse delay.
    fn expected(&self) -> Result<Ipv4Addr, bool> {
        let pods = self.pods();
        let free: Vec<Ipv4Addr> = {
            let leased: BTreeSet<_> = self.leased.values().collect();
            pods.iter().copied().filter(|a| !leased.contains(a)).collect()
        };
        let after_last =
            self.last.and_then(|l| pods.iter().position(|a| *a == l)).map_or(0, |n| n + 1);
        let mut in_order = pods[after_last..].iter().chain(&pods[..after_last]);
        let unused = in_order.find(|a| free.contains(a) && !self.released.contains_key(a));
        if let Some(address) = unused {
            return Ok(*address);
        }
        let oldest = free.iter().min_by_key(|a| self.released[a].2).ok_or(false)?;
        let (boot, at, _) = self.released[oldest];
        match boot == self.boot && self.now - at < REUSE_DELAY_SECONDS {
            true => Err(true),
            false => Ok(*oldest),
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_model_of_each_address(steps in steps()) {
        let mut model = Model { now: 100, ..Model::default() };
        let mut allocation = Allocation::default();
        for step in steps {
            let now = model.now();
            match step {
                Step::Wait(seconds) => model.now += seconds,
                Step::Reboot => (model.boot, model.now) = (model.boot + 1, 1),
                Step::Range(range) => model.range = range,
                Step::Del(n) => {
                    if let Some(address) = model.release(n) {
                        allocation.release(address, &now);
                    }
                }
                Step::Reclaim(remainder) => {
                    let dead: Vec<usize> =
                        model.leased.keys().copied().filter(|n| n % 5 == remainder).collect();
                    for address in dead.into_iter().filter_map(|n| model.release(n)) {
                        allocation.release(address, &now);
                    }
                }
                Step::Add => {
                    let subnet: Subnet = RANGES[model.range].parse().unwrap();
                    // A range takes effect with its first allocation.
                    if model.range_in_use.replace(model.range) != Some(model.range) {
                        model.last = None;
                        model.released.retain(|address, _| subnet.contains(*address));
                    }
                    let leased: BTreeSet<_> = model.leased.values().copied().collect();
                    let leased = |address| leased.contains(&address);
                    match (allocation.choose(subnet, leased, &now), model.expected()) {
                        (Ok(address), expected) => {
                            prop_assert_eq!(Ok(address), expected);
                            let n = model.attachments;
                            model.attachments += 1;
                            model.leased.insert(n, address);
                            model.released.remove(&address);
                            model.last = Some(address);
                        }
                        (Err(AllocError::ReuseDelay { subnet: of, seconds }), expected) => {
                            prop_assert_eq!((of, expected), (subnet, Err(true)));
                            prop_assert!((1..=REUSE_DELAY_SECONDS).contains(&seconds));
                        }
                        (Err(AllocError::Exhausted { capacity, subnet: of }), expected) => {
                            prop_assert_eq!((of, expected), (subnet, Err(false)));
                            prop_assert_eq!(capacity, model.pods().len());
                        }
                        (Err(AllocError::TooManyPods), _) => prop_assert!(false, "no index"),
                    }
                }
            }
            // What one call saves is all that the next one knows.
            let text = serde_json::to_vec(&allocation).unwrap();
            prop_assert_eq!(Allocation::from_json(&text).unwrap(), allocation.clone());
        }
    }
}

#[test]
fn an_address_is_reused_as_late_as_the_range_allows() {
    let subnet: Subnet = "10.244.1.0/24".parse().unwrap();
    let mut allocation = Allocation::default();
    let mut last_use = BTreeMap::new();
    let mut smallest = usize::MAX;
    for n in 0..300 {
        let now = at(n as u64);
        let address = allocation.choose(subnet, |_| false, &now).unwrap();
        if let Some(before) = last_use.insert(address, n) {
            smallest = smallest.min(n - before);
        }
        allocation.release(address, &now);
    }
    assert_eq!(smallest, 253);
}

#[test]
fn the_reuse_delay_is_exact_and_ends_with_a_reboot() {
    let subnet: Subnet = "10.0.0.0/30".parse().unwrap();
    let none = |_| false;
    let mut allocation = Allocation::default();
    let address = allocation.choose(subnet, none, &at(5)).unwrap();
    let full = allocation.choose(subnet, |leased| leased == address, &at(5));
    assert_eq!(full, Err(AllocError::Exhausted { capacity: 1, subnet }));
    allocation.release(address, &at(6));
    for (now, seconds) in [(6, 10), (7, 9), (15, 1)] {
        let error = allocation.choose(subnet, none, &at(now)).unwrap_err();
        assert_eq!(error, AllocError::ReuseDelay { subnet, seconds });
    }
    let rebooted = BootInstant { boot_id: "two".into(), seconds: 1 };
    assert_eq!(allocation.clone().choose(subnet, none, &rebooted), Ok(address));
    assert_eq!(allocation.choose(subnet, none, &at(16)), Ok(address));
}

#[test]
fn a_new_range_starts_from_its_first_address() {
    let (old, new): (Subnet, Subnet) =
        ("10.0.0.0/24".parse().unwrap(), "10.0.1.0/24".parse().unwrap());
    let mut allocation = Allocation::default();
    let address = allocation.choose(old, |_| false, &at(1)).unwrap();
    let leased = |leased| leased == address;
    assert_eq!(allocation.choose(new, leased, &at(2)).unwrap(), new.first());
}

#[test]
fn the_list_of_released_addresses_is_bounded_and_holds_every_reuse_delay() {
    let subnet: Subnet = "10.0.0.0/16".parse().unwrap();
    let mut allocation = Allocation::default();
    let mut release = |n: u32, second| {
        let address = Ipv4Addr::from(u32::from(subnet.first()) + n);
        allocation.release(address, &at(second));
        (allocation.released.len(), allocation.clone())
    };
    for n in 0..1000 {
        assert_eq!(release(n, 1).0, n as usize + 1, "within the delay");
    }
    let (length, allocation) = release(1000, 1 + REUSE_DELAY_SECONDS);
    assert_eq!(length, 256);
    // The latest ones are kept.
    assert_eq!(allocation.released[0].address, Ipv4Addr::new(10, 0, 2, 235));
    let text = serde_json::to_vec(&allocation).unwrap();
    assert!(text.len() < 12_000, "{} bytes", text.len());
}
