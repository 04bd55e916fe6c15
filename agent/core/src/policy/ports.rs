//! Sets of ports: normal form, and the rows that hold them.

use sluice_abi::{PolicyPortKey, PolicyPorts, PortBe};

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// IP protocol number.
    pub proto: u8,
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
}

/// A set of ports in normal form: equal sets are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every protocol and port.
    All,
    /// These, sorted; no two overlap or are adjacent.
    Ranges(Box<[Range]>),
}

impl Default for Ports {
    fn default() -> Ports {
        Ports::Ranges([].into())
    }
}

impl Ports {
    /// Whether the set is empty.
    pub fn is_none(&self) -> bool {
        matches!(self, Ports::Ranges(ranges) if ranges.is_empty())
    }

    /// The value that needs no rows of `POLICY_PORTS`, if there is one.
    pub fn inline(&self) -> Option<PolicyPorts> {
        match self {
            Ports::All => Some(PolicyPorts::ALL),
            Ports::Ranges(ranges) => match &**ranges {
                [] => Some(PolicyPorts::NONE),
                [Range { proto, first, last }] => Some(PolicyPorts::range(*proto, *first, *last)),
                _ => None,
            },
        }
    }

    /// The keys of `POLICY_PORTS` for a set with this id.
    pub fn keys(&self, id: u64) -> Vec<PolicyPortKey> {
        let id = PolicyPortKey::words(id);
        let key = |bits: u32, proto, port| PolicyPortKey {
            prefix_len: 80 + bits,
            id,
            pad: 0,
            proto,
            port: PortBe::new(port),
        };
        let mut keys = Vec::new();
        let Ports::Ranges(ranges) = self else { return keys };
        for Range { proto, first, last } in ranges {
            let (mut next, end) = (u32::from(*first), u32::from(*last) + 1);
            while next < end {
                // The largest aligned block that begins here and does not reach beyond the end.
                let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
                let bits = aligned.min((end - next).ilog2());
                keys.push(key(16 - bits, *proto, next as u16));
                next += 1 << bits;
            }
        }
        keys
    }
}

/// Collects a set of ports.
#[derive(Clone, Debug, Default)]
pub struct Union {
    all: bool,
    ranges: Vec<Range>,
}

impl Union {
    /// Adds a set.
    pub fn add(&mut self, ports: &Ports) {
        match ports {
            Ports::All => self.all = true,
            Ports::Ranges(ranges) => self.ranges.extend(ranges),
        }
    }

    /// Adds ports of one protocol.
    pub fn add_range(&mut self, range: Range) {
        self.ranges.push(range);
    }

    /// The set.
    pub fn finish(mut self) -> Ports {
        if self.all {
            return Ports::All;
        }
        self.ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::new();
        for range in self.ranges {
            match merged.last_mut() {
                Some(last)
                    if last.proto == range.proto
                        && u32::from(range.first) <= u32::from(last.last) + 1 =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Ports::Ranges(merged.into())
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::proto::{SCTP, TCP, UDP};

    use super::*;

    fn union(ranges: &[(u8, u16, u16)]) -> Ports {
        let mut union = Union::default();
        for (proto, first, last) in ranges {
            union.add_range(Range { proto: *proto, first: *first, last: *last });
        }
        union.finish()
    }

    #[test]
    fn overlapping_and_adjacent_ranges_are_one() {
        let merged = [(TCP, 1, 9), (TCP, 5, 20), (TCP, 21, 30), (UDP, 31, 31)];
        assert_eq!(union(&merged), union(&[(UDP, 31, 31), (TCP, 1, 30)]));
        assert_eq!(union(&[(TCP, 0, 65_535), (TCP, 80, 80)]), union(&[(TCP, 0, 65_535)]));
        assert_ne!(union(&[(TCP, 1, 1), (TCP, 3, 3)]), union(&[(TCP, 1, 3)]));
    }

    #[test]
    fn one_range_needs_no_rows() {
        assert_eq!(union(&[]).inline(), Some(PolicyPorts::NONE));
        assert_eq!(Ports::All.inline(), Some(PolicyPorts::ALL));
        assert_eq!(union(&[(TCP, 80, 90)]).inline(), Some(PolicyPorts::range(TCP, 80, 90)));
        assert_eq!(union(&[(TCP, 80, 80), (UDP, 80, 80)]).inline(), None);
    }

    #[test]
    fn keys_cover_exactly_the_ranges() {
        for ranges in [
            &[(TCP, 0, 65_535), (UDP, 0, 0)][..],
            &[(TCP, 1, 65_534), (SCTP, 65_535, 65_535)],
            &[(TCP, 1000, 2000), (TCP, 2002, 2002), (UDP, 32_768, 60_999)],
        ] {
            let set = union(ranges);
            let keys = set.keys(0x0102_0304_0506_0708);
            assert!(keys.len() <= ranges.len() * 30, "{} keys", keys.len());
            for proto in [TCP, UDP, SCTP, 1] {
                for port in 0..=u16::MAX {
                    let hit = |key: &PolicyPortKey| {
                        let shift = 96 - key.prefix_len;
                        key.proto == proto
                            && u32::from(key.port.get()) >> shift == u32::from(port) >> shift
                    };
                    let wanted = ranges
                        .iter()
                        .any(|(p, first, last)| *p == proto && (*first..=*last).contains(&port));
                    assert_eq!(keys.iter().filter(|key| hit(key)).count(), usize::from(wanted));
                }
            }
        }
    }
}
