//! GC: detaches every attachment of this network that the runtime does not list.

use std::collections::BTreeSet;

use sluice_pod::lease::{Lease, LeaseKey, Store};

use super::del::detach;
use super::{load, now, open_host, store_failed};
use crate::spec::{Attachment, CniError, NetConf, code};

pub(super) fn gc(conf: &NetConf) -> Result<(), CniError> {
    let valid = conf.valid_attachments()?;
    let mut host = open_host()?;
    let store = Store::new(&conf.state_dir);
    let stale = {
        let locked = store.lock().map_err(store_failed)?;
        let state = load(&locked, &mut host, &conf.name, &now()?)?;
        stale(state.leases, &conf.name, valid)
    };
    let mut failures = Vec::new();
    for lease in stale {
        if let Err(e) = detach(conf, &mut host, &lease.key) {
            failures.push(e.about(&lease.owner()).msg);
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        all => Err(CniError::new(code::IO, all.join("; "))),
    }
}

/// The leases of `network` that are not valid. Other networks have their own GC.
fn stale(leases: Vec<Lease>, network: &str, valid: &[Attachment]) -> Vec<Lease> {
    let valid: BTreeSet<LeaseKey> = valid
        .iter()
        .map(|a| LeaseKey { container_id: a.container_id.clone(), ifname: a.ifname.clone() })
        .collect();
    leases.into_iter().filter(|l| l.network == network && !valid.contains(&l.key)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use sluice_pod::lease::BootInstant;

    use super::*;

    fn lease(container_id: &str, ifname: &str, network: &str) -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 244, 1, 7),
            key: LeaseKey { container_id: container_id.into(), ifname: ifname.into() },
            network: network.into(),
            pod_namespace: None,
            pod_name: None,
            netns: String::new(),
            host_ifname: String::new(),
            since: BootInstant { boot_id: "one".into(), seconds: 1 },
        }
    }

    #[test]
    fn leases_of_this_network_that_are_not_listed_are_stale() {
        let leases = vec![
            lease("c1", "eth0", "sluice"),
            lease("c1", "net1", "sluice"),
            lease("c2", "eth0", "sluice"),
            lease("c3", "eth0", "other"),
        ];
        let attachment = |container_id: &str, ifname: &str| Attachment {
            container_id: container_id.into(),
            ifname: ifname.into(),
        };
        let valid = [attachment("c1", "eth0"), attachment("c2", "net1")];
        let stale = |valid: &[Attachment]| -> Vec<String> {
            let leases = super::stale(leases.clone(), "sluice", valid);
            leases.iter().map(|l| format!("{} {}", l.key.container_id, l.key.ifname)).collect()
        };
        assert_eq!(stale(&valid), ["c1 net1", "c2 eth0"]);
        assert_eq!(stale(&[]).len(), 3);
    }
}
