//! Pods: what Services and NetworkPolicy need of them.
//!
//! A cluster has up to 150,000 of them, so a Pod takes at most 300 bytes: [`crate::index`] keeps one
//! copy of equal texts, labels and ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{ObjectName, Port, Protocol};

/// Phase of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// Running.
    Running,
    /// All containers terminated successfully; its addresses may be reused.
    Succeeded,
    /// All containers terminated, at least one with an error; its addresses may be reused.
    Failed,
    /// The node does not respond.
    Unknown,
}

impl PodPhase {
    /// From the API value; unknown values are [`PodPhase::Unknown`].
    pub fn from_api(word: Option<&str>) -> PodPhase {
        match word {
            None | Some("" | "Pending") => PodPhase::Pending,
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            Some(_) => PodPhase::Unknown,
        }
    }

    /// Whether the Pod is Succeeded or Failed: it does not run again.
    pub fn is_over(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// UID of an object. Pods of a StatefulSet are created again with the same name and another UID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; 16]);

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Uid {
    /// From the API value, a UUID. `None` without one, and for other texts: they are not UIDs of an
    /// API server.
    pub fn from_api(text: &str) -> Option<Uid> {
        let mut digits = text.bytes().filter(|b| *b != b'-').map(|b| char::from(b).to_digit(16));
        let mut uid = [0u8; 16];
        for byte in &mut uid {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        digits.next().is_none().then_some(Uid(uid))
    }
}

/// Addresses of a Pod: at most one per family, as the API requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIps {
    // The unspecified address: none. Two options would be 22 bytes.
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl PodIps {
    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)].into_iter().filter(|ip| !ip.is_unspecified())
    }
}

impl Default for PodIps {
    fn default() -> PodIps {
        PodIps { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED }
    }
}

impl FromIterator<IpAddr> for PodIps {
    /// Takes the first address of each family.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(ips: I) -> PodIps {
        let mut found = PodIps::default();
        for ip in ips {
            match ip {
                IpAddr::V4(v4) if found.v4.is_unspecified() => found.v4 = v4,
                IpAddr::V6(v6) if found.v6.is_unspecified() => found.v6 = v6,
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
        found
    }
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Key.
    pub key: Arc<str>,
    /// Value.
    pub value: Arc<str>,
}

/// Labels, sorted by key; a copy shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(pub(crate) Arc<[Arc<Label>]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|label| (*label.key).cmp(key)).ok()?;
        self.0.get(at).map(|label| &*label.value)
    }

    /// All labels, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|label| (&*label.key, &*label.value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Labels {
        let label = |(key, value): (K, V)| Arc::new(Label { key: key.into(), value: value.into() });
        let mut labels: Vec<Arc<Label>> = labels.into_iter().map(label).collect();
        labels.sort();
        labels.dedup_by(|later, first| later.key == first.key);
        Labels(labels.into())
    }
}

/// A container port with a name, which policies can refer to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// Name.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: Port,
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// UID; absent in manifests.
    pub uid: Option<Uid>,
    /// Node that it is bound to.
    pub node: Option<Arc<str>>,
    /// Labels.
    pub labels: Labels,
    /// Named ports of its containers.
    pub ports: Arc<[ContainerPort]>,
    /// `podIPs`, or `podIP` if only that is set.
    pub ips: PodIps,
    /// Phase.
    pub phase: PodPhase,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// Whether it has a `deletionTimestamp`: kubelet stops its containers. This is final.
    pub terminating: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_a_uuid() {
        let uid = Uid::from_api("01234567-89AB-cdef-0123-456789abcdef");
        assert_eq!(uid, Uid::from_api("0123456789abcdef0123456789abcdef"));
        assert!(uid.is_some() && uid != Uid::from_api("01234567-89ab-cdef-0123-456789abcdee"));
        for text in
            ["", "1-2", "0123456789abcdef0123456789abcdef0", "0123456789abcdeg0123456789abcdef"]
        {
            assert_eq!(Uid::from_api(text), None, "{text:?}");
        }
    }

    #[test]
    fn first_address_of_each_family_is_kept() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("address") };
        let ips: PodIps = ["fd00::1", "10.0.0.1", "10.0.0.2"].map(ip).into_iter().collect();
        assert_eq!(ips.iter().collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"].map(ip));
        assert_eq!(PodIps::default().iter().count(), 0);
    }

    #[test]
    fn labels_are_found_by_key() {
        let labels: Labels = [("b", "2"), ("a", "1")].into_iter().collect();
        assert_eq!(
            (labels.get("a"), labels.get("b"), labels.get("c")),
            (Some("1"), Some("2"), None)
        );
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!(labels, [("a", "1"), ("b", "2")].into_iter().collect());
    }
}
