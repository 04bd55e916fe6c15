//! A node's IPv4 pod range.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's IPv4 pod range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

/// A text that is not a usable pod range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// The text is not `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 network such as 10.244.1.0/24")]
    Malformed(String),
    /// Bits outside the prefix are set.
    #[error("{0} has host bits set; the network is {1}")]
    HostBits(String, Subnet),
    /// The range holds no pod, or millions.
    #[error("{0}: the prefix length must be between 8 and 30")]
    Prefix(String),
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Subnet, SubnetError> {
        let malformed = || SubnetError::Malformed(text.to_owned());
        let (addr, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        if !(8..=30).contains(&prefix) {
            return Err(SubnetError::Prefix(text.to_owned()));
        }
        let network = u32::from(addr) & (u32::MAX << (32 - prefix));
        let subnet = Subnet { network, prefix };
        if network != u32::from(addr) {
            return Err(SubnetError::HostBits(text.to_owned(), subnet));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Subnet, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl Subnet {
    fn broadcast(self) -> u32 {
        self.network | !(u32::MAX << (32 - self.prefix))
    }

    /// Whether the range contains `addr`, reserved addresses included.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        (self.network..=self.broadcast()).contains(&u32::from(addr))
    }

    /// First address for pods. The network address and the next one, which is the node's, are
    /// reserved.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 2)
    }

    /// Last address for pods: the one before the broadcast address.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(self.broadcast() - 1)
    }

    /// Number of addresses for pods.
    pub fn capacity(self) -> usize {
        (u32::from(self.last()) - u32::from(self.first()) + 1) as usize
    }

    /// Whether `addr` is one for pods.
    pub(super) fn is_for_pods(self, addr: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&addr)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_reserve_the_first_two_addresses_and_the_last() {
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
    }

    #[test]
    fn other_texts_are_rejected_with_a_reason() {
        for (text, reason) in [
            ("", "is not an IPv4 network"),
            ("10.0.0.0", "is not an IPv4 network"),
            ("a/24", "is not an IPv4 network"),
            ("fd00::/64", "is not an IPv4 network"),
            ("10.0.0.0/", "is not an IPv4 network"),
            ("10.0.0.0/24/1", "is not an IPv4 network"),
            ("10.0.0.0/256", "is not an IPv4 network"),
            ("10.0.0.1/24", "the network is 10.0.0.0/24"),
            ("10.0.0.0/31", "between 8 and 30"),
            ("10.0.0.0/7", "between 8 and 30"),
            ("0.0.0.0/0", "between 8 and 30"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_range_contains_its_addresses_and_no_others(
            addr: u32, prefix in 8u8..=30, other: u32, near in -300i64..300,
        ) {
            let network = addr & (u32::MAX << (32 - prefix));
            let subnet: Subnet =
                format!("{}/{prefix}", Ipv4Addr::from(network)).parse().unwrap();
            prop_assert_eq!(subnet.to_string().parse::<Subnet>().unwrap(), subnet);
            let near = (i64::from(network) + near).clamp(0, i64::from(u32::MAX)) as u32;
            for candidate in [other, near, addr, u32::from(subnet.last()) + 1] {
                let inside = candidate >> (32 - prefix) == network >> (32 - prefix);
                let candidate = Ipv4Addr::from(candidate);
                prop_assert_eq!(subnet.contains(candidate), inside);
                let offset = u64::from(u32::from(candidate)).wrapping_sub(u64::from(network));
                let for_pods = inside && (2..(1u64 << (32 - prefix)) - 1).contains(&offset);
                prop_assert_eq!(subnet.is_for_pods(candidate), for_pods);
            }
            let (first, last) = (u32::from(subnet.first()), u32::from(subnet.last()));
            prop_assert_eq!(subnet.capacity(), (last - first) as usize + 1);
            if addr != network {
                let text = format!("{}/{prefix}", Ipv4Addr::from(addr));
                prop_assert!(text.parse::<Subnet>().is_err());
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "[0-9./a-f:]{0,24}") {
            let _ = text.parse::<Subnet>();
        }
    }
}
