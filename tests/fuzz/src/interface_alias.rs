//! The alias of a host interface.
//!
//! The attachment of an alias that parses is printed and parsed again without loss; the pod is a
//! prefix of the original if the alias exceeds the kernel's limit.

use sluice_pod::identity::{Alias, HOST_PREFIX, alias, host_ifname, macs, parse_alias};
use sluice_pod::lease::{BootInstant, Lease, Number};

/// `IFALIASZ` without the NUL.
const ALIAS_MAX: usize = 255;
/// `IFNAMSIZ` without the NUL.
const NAME_MAX: usize = 15;

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let Some(Alias { key, pod, number }) = parse_alias(text) else {
        assert!(text.matches(' ').count() < 2, "{text:?}");
        return;
    };
    assert!(!key.container_id.contains(' ') && !key.ifname.contains(' '));
    let (namespace, name) = pod.clone().unzip();
    let number = number.unwrap_or(Number { index: 0, generation: 1 });
    let lease = Lease {
        address: [10, 244, 1, 7].into(),
        index: number.index,
        generation: number.generation,
        key: key.clone(),
        network: String::new(),
        pod_namespace: namespace.clone(),
        pod_name: name.clone(),
        pod_uid: None,
        netns: String::new(),
        host_ifname: host_ifname(&key),
        since: BootInstant { boot_id: String::new(), seconds: 0 },
        host_ports: None,
        netns_cookie: None,
    };
    let printed = alias(&lease);
    let tail = printed.len() - printed.match_indices(' ').rev().nth(2).expect("three").0;
    assert!(printed.len() <= ALIAS_MAX.max(tail), "{}", printed.len());

    let again = parse_alias(&printed).expect("an alias parses");
    assert_eq!((again.key, again.number), (key.clone(), Some(number)));
    let length = namespace.as_ref().zip(name.as_ref()).map_or(1, |(ns, n)| ns.len() + n.len() + 1);
    if length + tail <= ALIAS_MAX {
        assert_eq!(again.pod, pod);
    } else if let Some((parsed_namespace, prefix)) = again.pod {
        assert_eq!(Some(parsed_namespace), namespace);
        assert!(name.expect("a pod").starts_with(&prefix));
    }

    let device = host_ifname(&key);
    assert!(device.len() <= NAME_MAX && device.starts_with(HOST_PREFIX) && device.is_ascii());
    let (host, pod) = macs(&key);
    assert!(host != pod && host[0] & 3 == 2 && pod[0] & 3 == 2);
}
