//! Names and hardware addresses of one attachment, derived from container id and interface name, so
//! that DEL finds its device without the lease file.
//!
//! Both are stable across releases: an upgraded binary must find the devices of the older one.
//! The interface alias names the pod, for operators and for rebuilding a lost lease file:
//! `default/web-0 eth0 4f1e...`.

use crate::device::Mac;
use crate::lease::LeaseKey;

/// Prefix of the names of the host's ends of veth pairs.
pub const HOST_PREFIX: &str = "slc";

/// Maximum length of an alias in bytes (IFALIASZ without the NUL).
const ALIAS_MAX: usize = 255;

/// 64-bit FNV-1a with a final mix, over the parts joined by NUL, which no part contains.
fn hash(parts: &[&str]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.join("\0").bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes hardly affect the high bits of FNV-1a.
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

/// Name of the host's end: [`HOST_PREFIX`] and eleven hexadecimal digits.
pub fn host_ifname(key: &LeaseKey) -> String {
    let hash = hash(&["name", &key.container_id, &key.ifname]);
    format!("{HOST_PREFIX}{:011x}", hash >> 20)
}

/// Hardware addresses of the host's and the pod's end: locally administered, unicast, and different
/// in their second byte.
pub fn macs(key: &LeaseKey) -> (Mac, Mac) {
    let h = hash(&["mac", &key.container_id, &key.ifname]).to_be_bytes();
    ([0x0a, 0x00, h[0], h[1], h[2], h[3]], [0x0a, 0x01, h[0], h[1], h[2], h[3]])
}

/// Alias of the host's end. A pod name that does not fit is truncated.
pub fn alias(key: &LeaseKey, namespace: Option<&str>, name: Option<&str>) -> String {
    let tail = format!(" {} {}", key.ifname, key.container_id);
    let mut pod = match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => "-".to_owned(),
    };
    let mut length = ALIAS_MAX.saturating_sub(tail.len()).min(pod.len());
    while !pod.is_char_boundary(length) {
        length -= 1;
    }
    pod.truncate(length);
    pod + &tail
}

/// Parses an [`alias`]: the attachment, and the pod's namespace and name if they are known.
pub fn parse_alias(alias: &str) -> Option<(LeaseKey, Option<(String, String)>)> {
    let mut parts = alias.rsplitn(3, ' ');
    let (container_id, ifname, pod) = (parts.next()?, parts.next()?, parts.next()?);
    let key = LeaseKey { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    Some((key, pod.split_once('/').map(|(n, p)| (n.to_owned(), p.to_owned()))))
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
