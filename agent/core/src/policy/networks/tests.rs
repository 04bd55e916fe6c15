//! Tests of prefixes and blocks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn block(cidr: &str, except: &[&str]) -> IpBlock {
    IpBlock { cidr: net(cidr), except: except.iter().map(|e| net(e)).collect() }
}

fn prefixes(prefixes: usize) -> NetworkLimits {
    NetworkLimits { prefixes, memberships: usize::MAX }
}

#[test]
fn longest_prefix_has_the_blocks_of_an_address() {
    let mut networks = Networks::default();
    networks.add(1, vec![block("10.0.0.0/8", &["10.1.0.0/16"])], prefixes(100));
    networks.add(2, vec![block("10.1.2.0/24", &[])], prefixes(100));
    networks.add(3, vec![block("::/0", &["fd00::/8"])], prefixes(100));
    networks.set_ranges([net("10.1.2.0/25"), net("10.9.0.0/24")].into_iter());
    networks.set_of_unknown_pods(9, true);
    let of = |networks: &Networks, address: &str| {
        let longest = networks.longest(address.parse().unwrap());
        longest.map(|net| networks.terms_of(net)).unwrap_or_default()
    };
    for (address, terms) in [
        ("10.0.0.1", &[1][..]),
        ("10.1.0.1", &[]),
        ("10.1.2.1", &[2, 9]),
        ("10.1.2.200", &[2]),
        ("10.9.0.1", &[1, 9]),
        ("11.0.0.1", &[]),
        ("2001:db8::1", &[3]),
        ("fd00::1", &[]),
    ] {
        assert_eq!(of(&networks, address), terms, "{address}");
    }
    assert_eq!(networks.longest([11, 0, 0, 1].into()), Some(ALL_V4), "not ::/0");
    networks.remove(3);
    assert_eq!(networks.longest([11, 0, 0, 1].into()), None);
    networks.set_of_unknown_pods(9, false);
    assert_eq!(of(&networks, "10.1.2.1"), [2]);
}

#[test]
fn block_that_does_not_fit_matches_nothing() {
    let mut networks = Networks::default();
    networks.add(1, vec![block("10.0.0.0/8", &["10.1.0.0/16"])], prefixes(3));
    assert_eq!(networks.add(2, vec![block("10.2.0.0/16", &[])], prefixes(3)), []);
    assert_eq!((networks.terms_of(net("10.2.0.0/16")), networks.refused().len()), (vec![1], 1));
    assert_eq!(networks.remove(2), []);
    assert!(networks.refused().is_empty());
    // Several blocks fit together, or none does.
    networks.add(3, vec![block("10.2.0.0/16", &[]), block("10.3.0.0/16", &[])], prefixes(5));
    assert_eq!(networks.terms_of(net("10.3.0.0/16")), [1]);
    assert_eq!(networks.add(4, vec![block("10.2.0.0/16", &[])], prefixes(5)), [net("10.2.0.0/16")]);
}

proptest! {
    #[test]
    fn memberships_are_those_of_all_prefixes(
        changes in vec((0..6u32, vec((0..12u8, 0..4u8, vec(0..16u8, 0..3)), 0..3)), 1..12),
    ) {
        let range = |number: u8, longer: u8| -> IpNet {
            let bases = [("10.0.0.0", 8), ("10.0.128.0", 8), ("::", 96), ("::ffff:10.0.0.0", 96)];
            let (address, length) = bases[usize::from(number % 4)];
            net(&format!("{address}/{}", length + number / 4 + longer)).trunc()
        };
        let limits = NetworkLimits { prefixes: 30, memberships: 20 };
        let mut networks = Networks::default();
        for (term, blocks) in changes {
            networks.remove(term);
            let blocks = blocks.iter().map(|(number, longer, except)| IpBlock {
                cidr: range(*number, *longer),
                except: except.iter().map(|n| range(number % 4 + n % 8 * 4, longer + n / 8)).collect(),
            });
            networks.add(term, blocks.collect(), limits);
            let blocks = networks.prefixes.values.keys().map(|net| networks.blocks_around(*net).len());
            let expected: usize = blocks.sum();
            prop_assert!(networks.memberships == expected && expected <= limits.memberships);
        }
    }
}

#[test]
fn exceptions_inside_blocks_of_others_count_and_are_limited() {
    let mut networks = Networks::default();
    let limits = NetworkLimits { prefixes: usize::MAX, memberships: 20_000 };
    let of = |net: u8, n: usize| format!("10.{net}.{}.{}/32", n / 256, n % 256);
    for term in 0..100 {
        networks.add(term, vec![block("10.1.0.0/16", &[&of(1, term as usize)])], limits);
    }
    assert!(networks.refused().is_empty());
    // Each exception has the blocks of the others.
    let inside = |net: u8, count: usize| {
        let except: Vec<String> = (0..count).map(|n| of(net, 1000 + n)).collect();
        block("10.0.0.0/8", &except.iter().map(String::as_str).collect::<Vec<_>>())
    };
    networks.add(100, vec![inside(1, 200)], limits);
    assert!(networks.refused().contains(&100));
    networks.add(101, vec![inside(2, 200)], limits);
    assert!(!networks.refused().contains(&101));
    let unlimited = NetworkLimits { prefixes: usize::MAX, memberships: usize::MAX };
    for (term, exceptions) in [(102, EXCEPTIONS), (103, EXCEPTIONS + 1)] {
        networks.add(term, vec![inside(3, exceptions)], unlimited);
        assert_eq!(networks.refused().contains(&term), exceptions > EXCEPTIONS);
    }
}
