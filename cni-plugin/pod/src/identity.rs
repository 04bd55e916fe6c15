//! The names by which one attachment is known on the host: all follow from container id and
//! interface name, so DEL finds them without any state.
//!
//! The alias tells people which pod an interface belongs to, and lets a lost state be rebuilt:
//! `default/web-0 eth0 4f1e...`.

use crate::device::Mac;
use crate::lease::LeaseKey;

/// The gateway that every pod sees: link-local, on no interface, reached by a permanent neighbour
/// entry alone.
pub const GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);

/// First letters of the host's end of each veth pair.
pub const HOST_PREFIX: &str = "slc";

/// Longest alias that the kernel keeps, bytes (IFALIASZ less its NUL).
const ALIAS_MAX: usize = 255;

/// 64-bit FNV-1a with a final mix, over the parts with a separator that no part can hold.
fn hash(parts: &[&str]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.join("\0").bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV's high bits see the last bytes only weakly.
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

/// Name of the host's end: `slc` and eleven hexadecimal digits.
pub fn host_ifname(key: &LeaseKey) -> String {
    let hash = hash(&["name", &key.container_id, &key.ifname]);
    format!("{HOST_PREFIX}{:011x}", hash >> 20)
}

/// Hardware addresses of the host's and the pod's end: locally administered, unicast, and
/// different by their second byte.
pub fn macs(key: &LeaseKey) -> (Mac, Mac) {
    let h = hash(&["mac", &key.container_id, &key.ifname]).to_be_bytes();
    ([0x0a, 0x00, h[0], h[1], h[2], h[3]], [0x0a, 0x01, h[0], h[1], h[2], h[3]])
}

/// The alias of the host's end.
pub fn alias(key: &LeaseKey, namespace: Option<&str>, name: Option<&str>) -> String {
    let tail = format!(" {} {}", key.ifname, key.container_id);
    let mut pod = match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => "-".to_owned(),
    };
    let mut room = ALIAS_MAX.saturating_sub(tail.len()).min(pod.len());
    while !pod.is_char_boundary(room) {
        room -= 1;
    }
    pod.truncate(room);
    pod + &tail
}

/// What an [`alias`] says: the attachment, and the pod's namespace and name.
pub fn read_alias(alias: &str) -> Option<(LeaseKey, Option<(String, String)>)> {
    let mut parts = alias.rsplitn(3, ' ');
    let (container_id, ifname, pod) = (parts.next()?, parts.next()?, parts.next()?);
    let key = LeaseKey { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    Some((key, pod.split_once('/').map(|(n, p)| (n.to_owned(), p.to_owned()))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn key(n: u32) -> LeaseKey {
        LeaseKey { container_id: format!("{n:064x}"), ifname: "eth0".into() }
    }

    #[test]
    fn names_fit_the_kernel_and_differ() {
        let names: std::collections::BTreeSet<String> =
            (0..20_000).map(|n| host_ifname(&key(n))).collect();
        assert_eq!(names.len(), 20_000);
        assert!(names.iter().all(|n| n.len() == 14));
        let (host, pod) = macs(&key(1));
        assert_ne!(host, pod);
        assert_eq!(host[0] & 3, 2, "locally administered, unicast");
    }

    #[test]
    fn an_alias_tells_what_went_in_however_long() {
        let (namespace, name) = ("n".repeat(63), "p".repeat(253));
        let text = alias(&key(7), Some(&namespace), Some(&name));
        assert_eq!(text.len(), ALIAS_MAX);
        assert_eq!(read_alias(&text).unwrap().0, key(7));
        let text = alias(&key(7), Some("default"), Some("web-0"));
        assert_eq!(read_alias(&text).unwrap(), (key(7), Some(("default".into(), "web-0".into()))));
        assert_eq!(read_alias(&alias(&key(7), None, None)).unwrap(), (key(7), None));
        assert_eq!(read_alias("eth0"), None);
    }
}
