//! GC: detaches every attachment of this network that the runtime does not list.

use std::collections::BTreeSet;

use sluice_pod::lease::{Lease, LeaseKey, Store};

use super::del::detach;
use super::{lock, mend, open_host, store_failed};
use crate::spec::{Attachment, CniError, NetConf, code};

pub(super) fn gc(conf: &NetConf) -> Result<(), CniError> {
    let valid = conf.valid_attachments()?;
    let mut host = open_host()?;
    let store = Store::new(&conf.state_dir);
    let stale = {
        let (locked, now) = lock(&store, conf, "GC", &mut host)?;
        let damaged = store.read().map_err(store_failed)?.damaged;
        mend(&locked, &damaged, conf, &mut host, &now)?;
        stale(store.read().map_err(store_failed)?.leases, &conf.name, valid)
    };
    detach_all(&stale, |lease| detach(conf, &mut host, &lease.key))
}

/// Detaches every attachment. A failure does not keep the others; the error names all failures.
fn detach_all(
    stale: &[Lease],
    mut detach: impl FnMut(&Lease) -> Result<(), CniError>,
) -> Result<(), CniError> {
    let mut failures = Vec::new();
    for lease in stale {
        if let Err(e) = detach(lease) {
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
    use sluice_pod::lease::fixture;

    use super::*;

    fn lease(container_id: &str, ifname: &str, network: &str) -> Lease {
        Lease {
            key: LeaseKey { container_id: container_id.into(), ifname: ifname.into() },
            network: network.into(),
            ..fixture::lease(container_id)
        }
    }

    #[test]
    fn a_failure_is_reported_and_does_not_keep_other_attachments() {
        let leases = ["c1", "c2", "c3"].map(|container_id| lease(container_id, "eth0", "sluice"));
        let mut detached = Vec::new();
        let error = detach_all(&leases, |lease| {
            detached.push(lease.key.container_id.clone());
            match lease.key.container_id.as_str() {
                "c2" => Ok(()),
                id => Err(CniError::new(code::IO, format!("{id} is busy"))),
            }
        })
        .expect_err("two failures");
        assert_eq!(detached, ["c1", "c2", "c3"]);
        assert_eq!(error.code, code::IO);
        assert!(
            error.msg.contains("c1 is busy") && error.msg.contains("c3 is busy"),
            "{}",
            error.msg
        );
        assert!(detach_all(&leases, |_| Ok(())).is_ok());
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
