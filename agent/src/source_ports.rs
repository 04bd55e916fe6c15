//! Ports for source translation: ranges of the configuration without those that the node uses. Pure.

use std::ops::RangeInclusive;
use std::str::FromStr;

use sluice_abi::PortRange;

/// First port that needs no privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// The default of kube-apiserver's --service-node-port-range.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Number of ranges that the programs search.
const RANGES: usize = 4;

/// Ranges of ports, in ascending order and apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePorts(Vec<RangeInclusive<u16>>);

/// Why a text is not a list of ranges, or no range is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourcePortsError {
    /// A part is not a range.
    #[error("{0} is not FIRST-LAST with ports from {FIRST_UNPRIVILEGED} to 65535")]
    Invalid(String),
    /// Two ranges overlap.
    #[error("{0} overlaps another range")]
    Overlap(String),
    /// More ranges than the programs search.
    #[error("more than {RANGES} ranges")]
    TooMany,
}

impl Default for SourcePorts {
    /// Everything below and above the NodePorts, whose upper part is usually the node's ephemeral
    /// ports.
    fn default() -> SourcePorts {
        SourcePorts(vec![
            FIRST_UNPRIVILEGED..=*NODE_PORTS.start() - 1,
            *NODE_PORTS.end() + 1..=u16::MAX,
        ])
    }
}

impl FromStr for SourcePorts {
    type Err = SourcePortsError;

    /// Parses `FIRST-LAST[,FIRST-LAST...]`.
    fn from_str(text: &str) -> Result<SourcePorts, SourcePortsError> {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let invalid = || SourcePortsError::Invalid(part.trim().to_owned());
            let (first, last) = part.split_once('-').ok_or_else(invalid)?;
            let port = |text: &str| text.trim().parse::<u16>().map_err(|_| invalid());
            let (first, last) = (port(first)?, port(last)?);
            if first < FIRST_UNPRIVILEGED || last < first {
                return Err(invalid());
            }
            ranges.push(first..=last);
        }
        ranges.sort_by_key(|range| *range.start());
        for pair in ranges.windows(2) {
            if let [before, after] = pair
                && after.start() <= before.end()
            {
                let text = format!("{}-{}", after.start(), after.end());
                return Err(SourcePortsError::Overlap(text));
            }
        }
        if ranges.len() > RANGES {
            return Err(SourcePortsError::TooMany);
        }
        Ok(SourcePorts(ranges))
    }
}

impl SourcePorts {
    /// The ranges for the programs: these without the node's ephemeral ports, of which the node's
    /// sockets get theirs. If more than four are left, the smallest are omitted. All empty: no port
    /// is left.
    pub fn without(&self, ephemeral: (u16, u16)) -> [PortRange; RANGES] {
        let mut ranges: Vec<PortRange> = self
            .0
            .iter()
            .flat_map(|range| {
                let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
                let (low, high) = (u32::from(ephemeral.0), u32::from(ephemeral.1));
                if high < first || last < low {
                    return vec![(first, last)];
                }
                vec![(first, low.saturating_sub(1)), (high + 1, last)]
            })
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| PortRange { first: first as u16, last: last as u16 })
            .collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.len()));
        ranges.truncate(RANGES);
        ranges.sort_by_key(|range| range.first);
        let mut result = [PortRange::default(); RANGES];
        for (to, range) in result.iter_mut().zip(ranges) {
            *to = range;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(ports: &SourcePorts, low: u16, high: u16) -> Vec<(u16, u16)> {
        let ranges = ports.without((low, high)).into_iter().filter(|range| !range.is_empty());
        ranges.map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn default_leaves_node_ports_and_ephemeral_ports_free() {
        let ports = SourcePorts::default();
        // The kernel's default, and others that administrators set.
        for (low, high, expected) in [
            (32_768, 60_999, &[(1024, 29_999), (61_000, 65_535)][..]),
            (1024, 65_535, &[]),
            (15_000, 61_000, &[(1024, 14_999), (61_001, 65_535)]),
            (40_000, 50_000, &[(1024, 29_999), (32_768, 39_999), (50_001, 65_535)]),
            (2000, 2999, &[(1024, 1999), (3000, 29_999), (32_768, 65_535)]),
        ] {
            assert_eq!(without(&ports, low, high), expected, "{low}-{high}");
        }
    }

    #[test]
    fn text_is_a_list_of_ranges() {
        let ports: SourcePorts = "61000-65535, 1024-2000".parse().unwrap();
        assert_eq!(without(&ports, 32_768, 60_999), [(1024, 2000), (61_000, 65_535)]);
        for (text, error) in [
            ("", " is not FIRST-LAST"),
            ("all", "all is not FIRST-LAST"),
            ("1023-2000", "1023-2000 is not FIRST-LAST with ports from 1024"),
            ("3000-2000", "3000-2000 is not"),
            ("3000-4000,70000-80000", "70000-80000 is not"),
            ("1024-2000,2000-3000", "2000-3000 overlaps"),
            ("2000-2001,2002-2003,2004-2005,2006-2007,2008-2009", "more than 4 ranges"),
        ] {
            let got = text.parse::<SourcePorts>().unwrap_err().to_string();
            assert!(got.contains(error), "{text}: {got}");
        }
    }

    #[test]
    fn smallest_ranges_are_omitted() {
        let ports: SourcePorts = "2000-2010,3000-3001,4000-4900,6000-6100".parse().unwrap();
        assert_eq!(
            without(&ports, 4100, 4200),
            [(2000, 2010), (4000, 4099), (4201, 4900), (6000, 6100)]
        );
    }
}
