//! Names of lease files: `10.244.1.7+12+slc0123456789a` (address, index, host's end).
//!
//! A listing of the folder shows all that ADD must not use again and lets DEL find its lease by the
//! name of its device: neither reads the files of other leases, and a damaged file keeps its address.

use std::net::Ipv4Addr;

use super::{INDEX_MAX, Lease};

/// What the name of a lease file states.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Number of the pod on this node.
    pub index: u32,
    /// Name of the host's end of the veth pair, derived from container id and interface name.
    pub host_ifname: String,
}

impl Entry {
    /// The name of a lease's file.
    pub fn of(lease: &Lease) -> Entry {
        let Lease { address, index, .. } = *lease;
        Entry { address, index, host_ifname: lease.host_ifname.clone() }
    }

    /// Parses a file name; `None` for files that are not leases.
    pub fn parse(name: &str) -> Option<Entry> {
        Name::parse(name).map(Entry::from)
    }

    /// The file name.
    pub fn file_name(&self) -> String {
        format!("{}+{}+{}", self.address, self.index, self.host_ifname)
    }
}

/// A file name in its parts, without a copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) address: Ipv4Addr,
    pub(super) index: u32,
    pub(super) host_ifname: &'a str,
}

impl Name<'_> {
    /// As [`Entry::parse`].
    pub(super) fn parse(name: &str) -> Option<Name<'_>> {
        let mut parts = name.splitn(3, '+');
        let (address, index, host_ifname) = (parts.next()?, parts.next()?, parts.next()?);
        // One name per entry: no signs or leading zeros, which the address cannot have either, and no
        // dots or slashes of a path.
        let canonical = index == "0" || index.starts_with(|digit| matches!(digit, '1'..='9'));
        let is_name =
            !host_ifname.is_empty() && host_ifname.bytes().all(|b| b.is_ascii_alphanumeric());
        let index = index.parse().ok().filter(|index| *index < INDEX_MAX)?;
        let address = address.parse().ok()?;
        (canonical && is_name).then_some(Name { address, index, host_ifname })
    }
}

impl From<Name<'_>> for Entry {
    fn from(name: Name<'_>) -> Entry {
        let Name { address, index, host_ifname } = name;
        Entry { address, index, host_ifname: host_ifname.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_names_are_not_leases() {
        assert!(Entry::parse("10.244.1.7+12+slc0123456789a").is_some());
        for name in [
            "",
            "lock",
            "10.244.1.7+12",
            "10.244.1.7+12+",
            "10.244.1.7+012+slc0",
            "10.244.1.7++12+slc0",
            "10.244.1.7+4095+slc0",
            "10.244.1.7+4096+slc0",
            "10.244.1.7+-1+slc0",
            "10.244.1+1+slc0",
            "fd00::1+1+slc0",
            "10.244.1.7+12+slc0.corrupt-0",
            "10.244.1.7+12+../../etc",
            ".10.244.1.7+12+slc0",
        ] {
            assert_eq!(Entry::parse(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_parsed_to_what_it_was_made_of(
            address: u32, index in 0..INDEX_MAX, host_ifname in "slc[0-9a-f]{11}",
        ) {
            let entry = Entry { address: address.into(), index, host_ifname };
            prop_assert_eq!(Entry::parse(&entry.file_name()), Some(entry));
        }

        #[test]
        fn one_entry_has_one_name(name in "[0-9.+a-f]{0,40}") {
            if let Some(entry) = Entry::parse(&name) {
                prop_assert_eq!(entry.file_name(), name);
            }
        }
    }
}
