//! Keys, kinds and ticks of flows.

use super::*;

fn key() -> FlowKey {
    FlowKey {
        src: Addr::v4([10, 0, 0, 1]),
        dst: Addr::v4([10, 0, 0, 2]),
        sport: PortBe::new(1),
        dport: PortBe::new(2),
        proto: 6,
        ..FlowKey::default()
    }
}

#[test]
fn kind_numbers_convert_back_and_unknown_numbers_do_not_convert() {
    for kind in FlowKind::ALL {
        assert_eq!(FlowKind::from_number(kind as u8), Some(kind));
    }
    assert_eq!(FlowKind::from_number(0), None);
    assert_eq!(FlowKind::from_number(FlowKind::ALL.len() as u8 + 1), None);
}

#[test]
fn reversing_exchanges_source_and_destination() {
    let key = key();
    let reversed = key.reversed();
    assert_eq!((reversed.src, reversed.sport), (key.dst, key.dport));
    assert_eq!((reversed.dst, reversed.dport), (key.src, key.sport));
    assert!(reversed.is_reverse_of(&key) && key.is_reverse_of(&reversed));
    for other in [key, FlowKey { sport: PortBe::new(9), ..reversed }] {
        assert!(!other.is_reverse_of(&key), "{other:?}");
    }
}

#[test]
fn both_directions_have_one_key_and_different_flows_have_different_keys() {
    let v6 = |last| Addr([0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, last]);
    let other_half = Addr([0xfd, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
    let addresses = [Addr::v4([10, 0, 0, 1]), Addr::v4([9, 0, 0, 2]), v6(1), v6(2), other_half];
    let ports = [1, 2, 256].map(PortBe::new);
    let mut tuples = std::collections::BTreeSet::new();
    for (src, dst) in addresses.iter().flat_map(|s| addresses.iter().map(move |d| (*s, *d))) {
        for (sport, dport) in ports.iter().flat_map(|s| ports.iter().map(move |d| (*s, *d))) {
            tuples.insert(FlowKey { src, dst, sport, dport, ..key() });
        }
    }
    let mut flows = std::collections::BTreeMap::<FlowKey, Vec<FlowKey>>::new();
    for tuple in &tuples {
        assert_eq!(tuple.sorted(), tuple.reversed().sorted());
        let mut key = FlowKey::default();
        key.sort(tuple);
        assert_eq!(key, tuple.sorted());
        flows.entry(tuple.sorted()).or_default().push(*tuple);
    }
    for (key, directions) in flows {
        let expected = if key == key.reversed() { 1 } else { 2 };
        assert_eq!(directions.len(), expected, "{directions:?}");
    }
}

#[test]
fn ticks_of_a_duration_last_at_least_as_long() {
    for seconds in [1, 2, 30, 3600, 86_400] {
        let ns = u64::from(ticks(seconds)) << TICK_SHIFT;
        assert!(ns >= u64::from(seconds) * 1_000_000_000);
        assert!(ns <= u64::from(seconds) * 1_000_000_000 + (1 << TICK_SHIFT));
        assert!(tick_seconds(ticks(seconds)).abs_diff(seconds) <= 1);
    }
    assert_eq!(tick((5 << TICK_SHIFT) + 7), 5);
}

#[test]
fn masquerading_keeps_a_service_flow_a_service_flow() {
    for kind in FlowKind::ALL {
        assert!(kind.masqueraded().is_masqueraded());
        assert_eq!(kind.masqueraded().is_service(), kind.is_service());
    }
}
