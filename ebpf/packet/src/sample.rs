//! Which dropped packets are reported: the first ones of a window, and beyond that those that differ from all
//! before them in the window. So a flood, of one flow, from one sender, to one destination or for one reason, does not
//! hide a drop that has nothing to do with it.

use sluice_abi::FlowKey;

/// Dropped packets of a window that are reported in any case.
pub const LIMIT: u64 = 100;
/// Most dropped packets of a window that are reported.
pub const MOST: u64 = LIMIT + 64 * 4;
/// Length of a window in nanoseconds.
pub const WINDOW_NS: u64 = 100_000_000;

/// A window of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Time of the first packet.
    since_ns: u64,
    /// Packets, reported or not.
    packets: u64,
    /// Which of 64 numbers packets had: by flow and reason, by source, by destination, by reason.
    seen: [u64; 4],
}

/// Whether a packet that is dropped at `now_ns` is reported. `tuple` and `reason` are those of its event.
///
/// Two packets that differ can have one number: the chance is 1/64 in each respect. The numbers change with each window.
#[inline(always)]
pub fn take(window: &mut Window, now_ns: u64, tuple: &FlowKey, reason: u32) -> bool {
    if now_ns.wrapping_sub(window.since_ns) > WINDOW_NS {
        *window = Window { since_ns: now_ns, ..Window::default() };
    }
    let words: &[u64; size_of::<FlowKey>() / 8] = zerocopy::transmute_ref!(tuple);
    let seed = mix(window.since_ns, u64::from(reason));
    let source = mix(mix(seed, words[0]), words[1]);
    // Without the source port, which is another one for each connection.
    let port = (u64::from(tuple.dport.get()) << 8) | u64::from(tuple.proto);
    let destination = mix(mix(mix(seed, words[2]), words[3]), port);
    let seen = &mut window.seen;
    // All of them: each marks its number.
    let is_new = mark(&mut seen[0], mix(source, destination) >> 58)
        | mark(&mut seen[1], source >> 58)
        | mark(&mut seen[2], destination >> 58)
        | mark(&mut seen[3], u64::from(reason));
    window.packets += 1;
    is_new | (window.packets <= LIMIT)
}

/// Marks a number. False: it was marked before.
#[inline(always)]
fn mark(seen: &mut u64, number: u64) -> bool {
    let bit = 1u64.wrapping_shl(number as u32);
    let is_new = *seen & bit == 0;
    *seen |= bit;
    is_new
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014), shortened.
#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash ^ (hash >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use sluice_abi::{Addr, PortBe, proto};

    use super::*;

    /// A packet of a flow between these hosts.
    fn tuple(source: u32, destination: u32, port: u16) -> FlowKey {
        let addr = |host: u32| Addr::v4((0x0a00_0000 | host).to_be_bytes());
        FlowKey {
            src: addr(source),
            dst: addr(destination),
            sport: PortBe::new(40_000),
            dport: PortBe::new(port),
            proto: proto::TCP,
            ..FlowKey::default()
        }
    }

    /// In how many of 1,000 windows a packet is reported after a flood.
    fn reported(flood: impl Fn(u32) -> (FlowKey, u32), packet: (FlowKey, u32)) -> usize {
        let window = |number: u64| {
            let (mut window, start) = (Window::default(), number * 101_000_000);
            for n in 0..5_000 {
                let (tuple, reason) = flood(n);
                take(&mut window, start + 1, &tuple, reason);
            }
            take(&mut window, start + 2, &packet.0, packet.1)
        };
        (1..=1_000).filter(|number| window(*number)).count()
    }

    #[test]
    fn one_flow_is_reported_up_to_the_limit_in_each_window() {
        let mut window = Window::default();
        for start in [WINDOW_NS * 5, WINDOW_NS * 7] {
            let of = |n: u64| take(&mut window, start + n, &tuple(1, 2, 80), 21);
            let reported = (0..1_000).map(of).filter(|reported| *reported).count() as u64;
            assert_eq!(reported, LIMIT);
        }
    }

    #[test]
    fn a_flood_does_not_hide_the_drop_of_another_flow() {
        let one = |_| (tuple(1, 2, 80), 21);
        for other in [
            (tuple(3, 2, 80), 21),
            (tuple(1, 3, 80), 21),
            (tuple(1, 2, 81), 21),
            (FlowKey { proto: proto::UDP, ..tuple(1, 2, 80) }, 21),
        ] {
            let found = reported(one, other);
            assert!(found > 990, "{other:?}: {found}");
        }
        assert_eq!(reported(one, (tuple(1, 2, 80), 20)), 1_000, "another reason");
        assert_eq!(reported(one, one(0)), 0);
        // Two noisy flows, and the drop of a flow from the source of one to the destination of the other.
        let two = |n| if n % 2 == 0 { (tuple(1, 2, 80), 21) } else { (tuple(3, 4, 80), 21) };
        let found = reported(two, (tuple(1, 4, 80), 21));
        assert!(found > 940, "{found}");
    }

    #[test]
    fn a_scan_and_forged_senders_hide_only_what_is_like_them() {
        let scan = |n| (tuple(1, n % 60 + 100, n as u16), 21);
        let found = reported(scan, (tuple(3, 2, 80), 21));
        assert!(found > 950, "a scan: {found}");
        let forged = |n| (tuple(n + 1_000, 2, 80), 21);
        let found = reported(forged, (tuple(3, 4, 80), 21));
        assert!(found > 950, "forged senders: {found}");
        let any = |n| (tuple(n + 1_000, n * 7 + 3, n as u16), 21);
        assert_eq!(reported(any, (tuple(3, 4, 80), 1)), 1_000, "another reason");
    }

    #[test]
    fn a_window_has_a_bound_whatever_is_dropped() {
        let mut window = Window::default();
        let of = |n: u32| {
            let tuple = tuple(n.wrapping_mul(2_654_435_761) >> 8, n, n as u16);
            take(&mut window, WINDOW_NS * 9, &tuple, n % 24)
        };
        let reported = (0..200_000).map(of).filter(|reported| *reported).count() as u64;
        assert!(reported > LIMIT && reported <= MOST, "{reported}");
    }
}
