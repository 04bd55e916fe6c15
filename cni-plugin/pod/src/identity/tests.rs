//! Names are unique, fit the kernel's limits, and stay as they are.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::lease::fixture;

fn key(container_id: &str, ifname: &str) -> LeaseKey {
    LeaseKey { container_id: container_id.into(), ifname: ifname.into() }
}

/// Devices outlive the binary that created them. A change here needs a migration of running pods.
#[test]
fn names_and_macs_of_earlier_releases_are_stable() {
    let sandbox = "4f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    for (container_id, ifname, device, host_mac, pod_mac) in [
        (
            sandbox,
            "eth0",
            "slcd16eea56db7",
            [0x0a, 0x00, 0x02, 0xb7, 0x10, 0x00],
            [0x0a, 0x01, 0x02, 0xb7, 0x10, 0x00],
        ),
        (
            sandbox,
            "net1",
            "slc00de53153f7",
            [0x0a, 0x00, 0x4f, 0x61, 0xd4, 0x8d],
            [0x0a, 0x01, 0x4f, 0x61, 0xd4, 0x8d],
        ),
        (
            "c1",
            "eth0",
            "slca53b8b64175",
            [0x0a, 0x00, 0xc5, 0x1c, 0xd8, 0x42],
            [0x0a, 0x01, 0xc5, 0x1c, 0xd8, 0x42],
        ),
    ] {
        let key = key(container_id, ifname);
        assert_eq!(host_ifname(&key), device);
        assert_eq!(macs(&key), (host_mac, pod_mac));
    }
}

#[test]
fn names_fit_the_kernel_and_differ() {
    let keys = (0..20_000).map(|n| key(&format!("{n:064x}"), "eth0"));
    let names: BTreeSet<String> = keys.map(|key| host_ifname(&key)).collect();
    assert_eq!(names.len(), 20_000);
    assert!(names.iter().all(|name| name.len() <= 15 && name.starts_with(HOST_PREFIX)));
}

#[test]
fn macs_are_unicast_and_locally_administered() {
    let all: BTreeSet<Mac> = (0..10_000)
        .flat_map(|n| {
            let (host, pod) = macs(&key(&format!("{n:064x}"), "eth0"));
            [host, pod]
        })
        .collect();
    assert_eq!(all.len(), 20_000);
    assert!(all.iter().all(|mac| mac[0] & 3 == 2));
}

fn named(key: LeaseKey, namespace: Option<&str>, name: Option<&str>) -> Lease {
    let (pod_namespace, pod_name) = (namespace.map(Into::into), name.map(Into::into));
    Lease { key, pod_namespace, pod_name, ..fixture::lease("c1") }
}

#[test]
fn an_alias_without_a_pod_has_a_dash() {
    let key = key("c1", "eth0");
    let alias = |namespace, name| alias(&named(key.clone(), namespace, name));
    assert_eq!(alias(Some("default"), Some("web-0")), "default/web-0 7:1a2b3c4d eth0 c1");
    for (namespace, name) in [(None, None), (Some("default"), None), (None, Some("web-0"))] {
        assert_eq!(alias(namespace, name), "- 7:1a2b3c4d eth0 c1");
    }
    let number = Some(Number { index: 7, generation: 0x1a2b_3c4d });
    let parsed = parse_alias("- 7:1a2b3c4d eth0 c1");
    assert_eq!(parsed, Some(Alias { key: key.clone(), pod: None, number }));
    for other in ["", "eth0", "eth0 c1"] {
        assert_eq!(parse_alias(other), None, "{other:?}");
    }
}

/// Devices outlive the binary that created them.
#[test]
fn an_alias_of_a_former_version_has_no_number() {
    let key = key("c1", "eth0");
    let pod = Some(("default".to_owned(), "web-0".to_owned()));
    let alias = parse_alias("default/web-0 eth0 c1").unwrap();
    assert_eq!(alias, Alias { key: key.clone(), pod, number: None });
    assert_eq!(parse_alias("- eth0 c1"), Some(Alias { key, pod: None, number: None }));
}

prop_compose! {
    fn keys()(container_id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,80}", ifname in "[^ /:\\s]{1,5}") -> LeaseKey {
        key(&container_id, &ifname)
    }
}

proptest! {
    #[test]
    fn an_alias_is_parsed_to_what_it_was_made_of(
        key in keys(),
        // CNI_ARGS excludes white space; a namespace has no slash.
        namespace in "[^/\\s]{1,80}",
        name in "[^\\s]{1,260}",
        index: u32,
        generation: u32,
    ) {
        let lease = Lease { index, generation, ..named(key.clone(), Some(&namespace), Some(&name)) };
        let text = alias(&lease);
        prop_assert!(text.len() <= ALIAS_MAX);
        let Alias { key: parsed, pod, number } = parse_alias(&text).unwrap();
        prop_assert_eq!(&parsed, &key);
        prop_assert_eq!(number, Some(Number { index, generation }));
        let whole = format!(
            "{namespace}/{name} {index}:{generation:08x} {} {}", key.ifname, key.container_id
        );
        if whole.len() <= ALIAS_MAX {
            prop_assert_eq!(pod, Some((namespace, name)));
        } else {
            // Truncated as little as a character boundary allows.
            prop_assert!(text.len() > ALIAS_MAX - 4);
            let kept = text.split(' ').next().unwrap();
            prop_assert!(whole.starts_with(kept));
        }
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in ".{0,300}") {
        if let Some(Alias { key, .. }) = parse_alias(&text) {
            prop_assert!(!key.ifname.contains(' ') && !key.container_id.contains(' '));
        }
    }

    #[test]
    fn different_attachments_have_different_names(a in keys(), b in keys()) {
        prop_assume!(a != b);
        prop_assert_ne!(host_ifname(&a), host_ifname(&b));
        prop_assert_ne!(macs(&a), macs(&b));
        let swapped = key(&a.ifname, &a.container_id);
        prop_assume!(swapped != a);
        prop_assert_ne!(host_ifname(&a), host_ifname(&swapped));
    }
}

#[test]
fn only_names_of_the_form_of_a_host_end_are_recognized() {
    let key = LeaseKey { container_id: "c1".into(), ifname: "eth0".into() };
    assert!(is_host_ifname(&host_ifname(&key)));
    for other in ["slcan0", "slc", "slc0123456789", "slc0123456789A", "slc0123456789ab", "eth0"] {
        assert!(!is_host_ifname(other), "{other}");
    }
}
