//! Names and hardware addresses of one attachment, derived from container id and interface name, so
//! that DEL finds its device without the lease file.
//!
//! Both are stable across releases: an upgraded binary must find the devices of the older one.
//! The interface alias names the pod, for operators and for rebuilding a lost or damaged lease:
//! `default/web-0 12:1a2b3c4d eth0 4f1e...` (pod, index:generation, interface, container). The
//! number is in the alias and not taken from a map, so that it survives the loss of the pins too.
//! Versions before the number read such an alias as a pod of a longer name.

use crate::device::Mac;
use crate::lease::{Lease, LeaseKey, Number};

/// Prefix of the names of the host's ends of veth pairs.
pub const HOST_PREFIX: &str = "slc";

/// Hexadecimal digits that follow [`HOST_PREFIX`].
const HOST_DIGITS: usize = 11;

/// Maximum length of an alias in bytes (IFALIASZ without the NUL).
const ALIAS_MAX: usize = 255;

/// Hash of the parts joined by NUL, which no part contains.
fn hash(parts: &[&str]) -> u64 {
    sluice_abi::hash(parts.join("\0").as_bytes())
}

/// Name of the host's end: [`HOST_PREFIX`] and eleven hexadecimal digits.
pub fn host_ifname(key: &LeaseKey) -> String {
    let hash = hash(&["name", &key.container_id, &key.ifname]);
    format!("{HOST_PREFIX}{:0HOST_DIGITS$x}", hash >> 20)
}

/// Whether a device has a name that [`host_ifname`] can give. The prefix alone does not suffice:
/// `slcan0` is a serial line.
pub fn is_host_ifname(name: &str) -> bool {
    let digits = name.strip_prefix(HOST_PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == HOST_DIGITS
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Number of an attachment's lock. Attachments that share one wait for each other.
pub(crate) fn attachment_number(key: &LeaseKey) -> u32 {
    (hash(&["lock", &key.container_id, &key.ifname]) >> 33) as u32
}

/// Hardware addresses of the host's and the pod's end: locally administered, unicast, and different
/// in their second byte.
pub fn macs(key: &LeaseKey) -> (Mac, Mac) {
    let h = hash(&["mac", &key.container_id, &key.ifname]).to_be_bytes();
    ([0x0a, 0x00, h[0], h[1], h[2], h[3]], [0x0a, 0x01, h[0], h[1], h[2], h[3]])
}

/// What an alias states about an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The attachment.
    pub key: LeaseKey,
    /// Namespace and name of the pod, if they are known.
    pub pod: Option<(String, String)>,
    /// The lease's number; devices of former versions have none.
    pub number: Option<Number>,
}

/// Alias of the host's end of a lease's veth pair. A pod name that does not fit is truncated.
pub fn alias(lease: &Lease) -> String {
    let Lease { index, generation, key, .. } = lease;
    let tail = format!(" {index}:{generation:08x} {} {}", key.ifname, key.container_id);
    let mut pod = match (&lease.pod_namespace, &lease.pod_name) {
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

/// Parses an [`alias`], or one of a former version, which has no number.
pub fn parse_alias(alias: &str) -> Option<Alias> {
    let mut parts = alias.rsplitn(3, ' ');
    let (container_id, ifname, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let key = LeaseKey { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    let (pod, number) = match rest.rsplit_once(' ').map(|(pod, n)| (pod, parse_number(n))) {
        Some((pod, Some(number))) => (pod, Some(number)),
        _ => (rest, None),
    };
    let pod = pod.split_once('/').map(|(n, p)| (n.to_owned(), p.to_owned()));
    Some(Alias { key, pod, number })
}

fn parse_number(text: &str) -> Option<Number> {
    let (index, generation) = text.split_once(':')?;
    let generation = u32::from_str_radix(generation, 16).ok()?;
    Some(Number { index: index.parse().ok()?, generation })
}

#[cfg(test)]
mod tests;
