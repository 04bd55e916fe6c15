//! Sets of ports: normal form, and the rows that hold them.

use std::collections::BTreeMap;

use sluice_abi::{PolicyPortKey, PolicyPorts, PortBe, ports_kind, proto};

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

impl Range {
    /// All ports of a protocol.
    pub fn whole(proto: u8) -> Range {
        Range { proto, first: 0, last: u16::MAX }
    }

    fn is_whole(&self) -> bool {
        *self == Range::whole(self.proto)
    }
}

/// The protocols whose ports rules can name, sorted.
const NAMED: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// A set of ports in normal form: equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Whether it has all protocols that rules cannot name.
    others: bool,
    /// Ports of TCP, UDP and SCTP, sorted; no two overlap or are adjacent.
    ranges: Box<[Range]>,
}

impl Ports {
    /// Every protocol and port.
    pub fn all() -> Ports {
        Ports { others: true, ranges: NAMED.map(Range::whole).into() }
    }

    /// Whether it has every protocol and port.
    pub fn is_all(&self) -> bool {
        self.others && self.ranges.iter().copied().eq(NAMED.map(Range::whole))
    }

    /// Whether the set is empty.
    pub fn is_none(&self) -> bool {
        !self.others && self.ranges.is_empty()
    }

    /// The value that needs no rows of `POLICY_PORTS`, if there is one.
    pub fn inline(&self) -> Option<PolicyPorts> {
        match &*self.ranges {
            _ if self.is_all() => Some(PolicyPorts::ALL),
            _ if self.others => None,
            [] => Some(PolicyPorts::NONE),
            [Range { proto, first, last }] => Some(PolicyPorts::range(*proto, *first, *last)),
            _ => None,
        }
    }

    /// The set of a value that needs no rows: the reverse of [`Ports::inline`].
    pub fn from_inline(value: PolicyPorts) -> Option<Ports> {
        match value.kind {
            ports_kind::ALL => Some(Ports::all()),
            ports_kind::RANGE => {
                let PolicyPorts { proto, first, last, .. } = value;
                Some(Ports { others: false, ranges: [Range { proto, first, last }].into() })
            }
            ports_kind::SET => None,
            _ => Some(Ports::default()),
        }
    }

    /// The set with an id, from the rows of all sets: the reverse of [`Ports::rows`].
    pub fn from_rows(id: u64, rows: &BTreeMap<PolicyPortKey, u32>) -> Ports {
        let id = PolicyPortKey::words(id);
        let mut ports = Ports::default();
        // The longest prefix decides.
        for prefix_len in 64..=96 {
            let first = PolicyPortKey { prefix_len, id, ..PolicyPortKey::default() };
            let last = PolicyPortKey { proto: u8::MAX, port: PortBe::new(u16::MAX), ..first };
            for (key, value) in rows.range(first..=last) {
                let of_row = match prefix_len {
                    ..80 => Ports::all(),
                    _ => {
                        let first = key.port.get();
                        let last = first | (u16::MAX.checked_shr(prefix_len - 80).unwrap_or(0));
                        let range = Range { proto: key.proto, first, last };
                        Ports { others: false, ranges: [range].into() }
                    }
                };
                ports = if *value == 0 { ports.minus(&of_row) } else { ports.or(&of_row) };
            }
        }
        ports
    }

    /// What is in this set and not in the other one.
    pub fn minus(&self, other: &Ports) -> Ports {
        let mut ranges = Vec::new();
        for &Range { proto, first, last } in &self.ranges {
            let mut next = u32::from(first);
            let cuts = other.ranges.iter().filter(|cut| cut.proto == proto);
            for cut in cuts.filter(|cut| first <= cut.last && cut.first <= last) {
                if next < u32::from(cut.first) {
                    ranges.push(Range { proto, first: next as u16, last: cut.first - 1 });
                }
                next = u32::from(cut.last) + 1;
            }
            if next <= u32::from(last) {
                ranges.push(Range { proto, first: next as u16, last });
            }
        }
        Ports { others: self.others && !other.others, ranges: ranges.into() }
    }

    /// What is in both sets.
    pub fn and(&self, other: &Ports) -> Ports {
        self.minus(&self.minus(other))
    }

    /// What is in one of the sets.
    pub fn or(&self, other: &Ports) -> Ports {
        let mut union = Union::default();
        union.add(self);
        union.add(other);
        union.finish()
    }

    /// The rows of `POLICY_PORTS` for a set with this id. A longer prefix with the value 0 takes the ports
    /// of a protocol out of a set that has all other protocols.
    pub fn rows(&self, id: u64) -> Vec<(PolicyPortKey, u32)> {
        let id = PolicyPortKey::words(id);
        let key = |prefix_len: u32, proto, port| PolicyPortKey {
            prefix_len,
            id,
            pad: 0,
            proto,
            port: PortBe::new(port),
        };
        let mut rows = Vec::new();
        if self.others {
            rows.push((key(72, 0, 0), 1));
            let is_whole = |proto: &u8| self.ranges.contains(&Range::whole(*proto));
            let partial = NAMED.into_iter().filter(|proto| !is_whole(proto));
            rows.extend(partial.map(|proto| (key(80, proto, 0), 0)));
        }
        for range in self.ranges.iter().filter(|range| !self.others || !range.is_whole()) {
            let (mut next, end) = (u32::from(range.first), u32::from(range.last) + 1);
            while next < end {
                // The largest aligned block that begins here and does not reach beyond the end.
                let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
                let bits = aligned.min((end - next).ilog2());
                rows.push((key(96 - bits, range.proto, next as u16), 1));
                next += 1 << bits;
            }
        }
        rows
    }
}

/// Collects a set of ports.
#[derive(Clone, Debug, Default)]
pub struct Union {
    others: bool,
    ranges: Vec<Range>,
}

impl Union {
    /// Adds a set.
    pub fn add(&mut self, ports: &Ports) {
        self.others |= ports.others;
        self.ranges.extend(&ports.ranges);
    }

    /// Adds ports of one protocol.
    pub fn add_range(&mut self, range: Range) {
        self.ranges.push(range);
    }

    /// The set.
    pub fn finish(mut self) -> Ports {
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
        Ports { others: self.others, ranges: merged.into() }
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
        assert_eq!(Ports::all().inline(), Some(PolicyPorts::ALL));
        assert_eq!(union(&[(TCP, 80, 90)]).inline(), Some(PolicyPorts::range(TCP, 80, 90)));
        assert_eq!(union(&[(TCP, 80, 80), (UDP, 80, 80)]).inline(), None);
        for ports in [Ports::default(), Ports::all(), union(&[(TCP, 80, 90)])] {
            assert_eq!(ports.inline().and_then(Ports::from_inline), Some(ports));
        }
        assert_eq!(Ports::from_inline(PolicyPorts::set(7)), None);
    }

    /// What the programs find for a protocol and port.
    fn looked_up(rows: &[(PolicyPortKey, u32)], proto: u8, port: u16) -> u32 {
        let hit = |key: &PolicyPortKey| match key.prefix_len {
            72 => true,
            len => {
                let shift = 96 - len;
                let (of, wanted) = (u32::from(key.port.get()), u32::from(port));
                key.proto == proto && of >> shift == wanted >> shift
            }
        };
        let found = rows.iter().filter(|(key, _)| hit(key)).max_by_key(|(key, _)| key.prefix_len);
        found.map_or(0, |(_, value)| *value)
    }

    #[test]
    fn rows_cover_exactly_the_ranges() {
        for ranges in [
            &[(TCP, 0, 65_535), (UDP, 0, 0)][..],
            &[(TCP, 1, 65_534), (SCTP, 65_535, 65_535)],
            &[(TCP, 1000, 2000), (TCP, 2002, 2002), (UDP, 32_768, 60_999)],
        ] {
            let set = union(ranges);
            let complement = Ports::all().minus(&set);
            let (rows, others) = (set.rows(7), complement.rows(8));
            for (id, ports, rows) in [(7, &set, &rows), (8, &complement, &others)] {
                let beside = Ports::all().minus(&union(&[(TCP, 7, 9)])).rows(9);
                let rows: BTreeMap<_, _> = rows.iter().copied().chain(beside).collect();
                assert_eq!(Ports::from_rows(id, &rows), *ports);
            }
            assert!(rows.len() <= ranges.len() * 30, "{} rows", rows.len());
            assert!(others.len() <= ranges.len() * 40, "{} rows", others.len());
            for proto in [TCP, UDP, SCTP, 1, 0, 255] {
                for port in 0..=u16::MAX {
                    let wanted = ranges
                        .iter()
                        .any(|(p, first, last)| *p == proto && (*first..=*last).contains(&port));
                    assert_eq!(looked_up(&rows, proto, port), u32::from(wanted));
                    assert_eq!(looked_up(&others, proto, port), u32::from(!wanted));
                }
            }
        }
        assert_eq!(Ports::all().minus(&union(&[(TCP, 80, 80)])).inline(), None);
    }

    #[test]
    fn sets_of_ports_have_the_operations_of_sets() {
        let a = Ports::all().minus(&union(&[(TCP, 80, 90), (UDP, 0, 65_535)]));
        let b = union(&[(TCP, 85, 100), (UDP, 53, 53), (SCTP, 1, 1)]);
        assert_eq!(a.and(&b), union(&[(TCP, 91, 100), (SCTP, 1, 1)]));
        assert_eq!(b.minus(&a), union(&[(TCP, 85, 90), (UDP, 53, 53)]));
        assert_eq!(a.or(&union(&[(TCP, 80, 90), (UDP, 0, 65_535)])), Ports::all());
        assert!(a.minus(&Ports::all()).is_none() && Ports::all().is_all() && !a.is_all());
        assert_eq!(a.and(&Ports::all()), a);
    }
}
