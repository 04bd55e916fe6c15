//! NetworkPolicy: what pods may send and receive.
//!
//! ```text
//! POD_POLICY        [index of the pod]  -> per direction: rule table, or none; ports for other peers
//! POLICY_CLASSES    address of a peer   -> class of the peer            (pods)
//! POLICY_NETWORKS   address, by prefix  -> class of the peer            (all other addresses)
//! POLICY_PEERS      {table, class}      -> ports
//! POLICY_PORTS      {id, protocol, port}-> 1, for ports that are more than one range, by prefix
//! OPEN_NAMESPACES   id of a namespace   -> 1, if no policy selects pods of it
//! POLICY_EPOCH      [0]                 -> number of the last change
//! ```
//! A class is a set of peers that no rule of this node tells apart. Ids of classes and of sets of ports
//! are hashes of their content, the id of a table is a hash of the selectors of its policies: its rows
//! change, and a pod that other selectors select changes over to another table by one write.
//!
//! A flow is judged once. Its entry has the epoch of that time ([`crate::FlowEntry::judged`]), which is
//! compared with the one that the rows of its pods have ([`PodPolicy::revision`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::PortBe;

/// Direction of a policy; the number is the index in [`PodPolicy::ends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PolicyDirection {
    /// The pod opens the flow.
    Egress = 0,
    /// The pod receives the flow.
    Ingress = 1,
}

impl PolicyDirection {
    /// Both directions, in order of their numbers.
    pub const ALL: [PolicyDirection; 2] = [PolicyDirection::Egress, PolicyDirection::Ingress];
}

/// Ports that a rule table admits for a class. All zero: none.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct PolicyPorts {
    /// Key of `POLICY_PORTS`, for [`ports_kind::SET`]; otherwise 0.
    pub id: u64,
    /// First port, in host order, for [`ports_kind::RANGE`].
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// IP protocol number, for [`ports_kind::RANGE`].
    pub proto: u8,
    /// One of [`ports_kind`].
    pub kind: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<PolicyPorts>() == 16);

/// Values of [`PolicyPorts::kind`].
pub mod ports_kind {
    /// No ports.
    pub const NONE: u8 = 0;
    /// Every protocol and port.
    pub const ALL: u8 = 1;
    /// A range of ports of one protocol; 0 to 65535 for the whole protocol.
    pub const RANGE: u8 = 2;
    /// What `POLICY_PORTS` has for the id.
    pub const SET: u8 = 3;
}

impl PolicyPorts {
    /// No ports.
    pub const NONE: PolicyPorts =
        PolicyPorts { id: 0, first: 0, last: 0, proto: 0, kind: ports_kind::NONE, pad: [0; 2] };

    /// Every protocol and port.
    pub const ALL: PolicyPorts = PolicyPorts { kind: ports_kind::ALL, ..PolicyPorts::NONE };

    /// The ports `first` to `last` of a protocol, in host order.
    pub const fn range(proto: u8, first: u16, last: u16) -> PolicyPorts {
        PolicyPorts { proto, first, last, kind: ports_kind::RANGE, ..PolicyPorts::NONE }
    }

    /// The ports that `POLICY_PORTS` has for an id.
    pub const fn set(id: u64) -> PolicyPorts {
        PolicyPorts { id, kind: ports_kind::SET, ..PolicyPorts::NONE }
    }
}

/// Policies of one direction of a pod. All zero: the pod is not isolated.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PolicyEnd {
    /// Id of the rule table; 0: not isolated.
    pub table: u64,
    /// Ports for peers whose class has no row in the table.
    pub otherwise: PolicyPorts,
}

/// Value of `POD_POLICY`. A row of another generation than the pod's is that of an earlier pod.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PodPolicy {
    /// [`crate::LocalPod::generation`]; 0: no row.
    pub generation: u16,
    /// [`pod_policy_flags`].
    pub flags: u16,
    /// `POLICY_EPOCH` of the last change that affects the pod: flows that were judged before are
    /// judged again. Written before `POLICY_EPOCH` has this number.
    pub revision: u32,
    /// By [`PolicyDirection`].
    pub ends: [PolicyEnd; 2],
}

const _: () = assert!(size_of::<PodPolicy>() == 56);

/// Bits of [`PodPolicy::flags`].
pub mod pod_policy_flags {
    /// ClusterNetworkPolicies select the pod: what it sends to itself by a Service is judged.
    pub const JUDGES_HAIRPIN: u16 = 1;
}

/// Key of `POLICY_PEERS`.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct PolicyPeerKey {
    /// Id of a rule table.
    pub table: u64,
    /// Id of a class.
    pub class: u64,
}

const _: () = assert!(size_of::<PolicyPeerKey>() == 16);

/// Key of the `POLICY_PORTS` LPM trie. The value is 1, or 0 for what is not in the set although a shorter
/// prefix is.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct PolicyPortKey {
    /// Length of the prefix in bits: 72 for every protocol, 80 for every port of a protocol, 96 for one
    /// port; between these, an aligned range of ports.
    pub prefix_len: u32,
    /// [`PolicyPorts::id`], in the order of memory.
    pub id: [u32; 2],
    /// Zero.
    pub pad: u8,
    /// IP protocol number; 0 with 72 bits.
    pub proto: u8,
    /// Port; the bits behind the prefix are 0.
    pub port: PortBe,
}

const _: () = assert!(size_of::<PolicyPortKey>() == 16);

impl PolicyPortKey {
    /// [`PolicyPortKey::id`] of a set.
    #[inline(always)]
    pub const fn words(id: u64) -> [u32; 2] {
        zerocopy::transmute!(id)
    }
}

/// Id of a namespace: a hash of its name that is never 0. Namespaces with the same id are open only
/// if all of them are.
pub const fn namespace_id(name: &str) -> u64 {
    match hash(name.as_bytes()) {
        0 => 1,
        hash => hash,
    }
}

/// 64-bit FNV-1a with a final mix: the last bytes hardly affect the high bits of FNV-1a. Names of
/// devices and ids of namespaces are stable across releases.
pub const fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        h = (h ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_namespaces_are_stable_and_not_zero() {
        assert_eq!(namespace_id("default"), namespace_id("default"));
        assert_ne!(namespace_id("default"), namespace_id("kube-system"));
        assert_ne!(namespace_id(""), 0);
    }
}
