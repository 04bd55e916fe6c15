//! A lease for tests of this crate and of the crates that use it.

use super::{BootInstant, Lease, LeaseKey};
use crate::identity;

/// The lease of pod `default/web-0` in container `container_id` with interface `eth0`, address
/// 10.244.1.7 and index 7, of second 1 of boot `one`.
pub fn lease(container_id: &str) -> Lease {
    let key = LeaseKey { container_id: container_id.into(), ifname: "eth0".into() };
    Lease {
        address: [10, 244, 1, 7].into(),
        index: 7,
        generation: 0x1a2b_3c4d,
        host_ifname: identity::host_ifname(&key),
        key,
        network: "sluice".into(),
        pod_namespace: Some("default".into()),
        pod_name: Some("web-0".into()),
        pod_uid: None,
        netns: "/run/netns/c1".into(),
        since: at(1),
        host_ports: Some(Vec::new()),
        netns_cookie: None,
    }
}

/// `seconds` after boot `one`.
pub fn at(seconds: u64) -> BootInstant {
    BootInstant { boot_id: "one".into(), seconds }
}
