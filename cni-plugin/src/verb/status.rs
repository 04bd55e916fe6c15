//! STATUS: whether ADD can succeed. Reads the pins and the lease file without a lock, so that a
//! restart of the agent or a running ADD does not make the node unready.

use std::io;

use sluice_pod::Dataplane;
use sluice_pod::lease::{AllocError, State, Store, Subnet};

use super::add::no_address;
use super::{dataplane_missing, now, open_host, read_links, store_failed};
use crate::spec::{CniError, NetConf, code};

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    let subnet = conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::NOT_AVAILABLE, &e))?;
    let state = match Store::new(&conf.state_dir).read() {
        Ok(state) => state,
        // ADD rebuilds a corrupt file.
        Err(e) if e.source.kind() == io::ErrorKind::InvalidData => return Ok(()),
        Err(e) => return Err(store_failed(e)),
    };
    if has_unleased(&state, subnet) {
        return Ok(());
    }
    let (links, now) = (read_links(&mut open_host()?)?, now()?);
    // ADD reclaims leases of pods that no longer exist.
    let mut leases = state.leases.iter().filter(|lease| subnet.contains(lease.address));
    if leases.any(|lease| !links.is_live(lease, &now)) {
        return Ok(());
    }
    let exhausted = AllocError::Exhausted { capacity: subnet.capacity(), subnet };
    Err(CniError { code: code::NOT_AVAILABLE, ..no_address(&exhausted) })
}

/// Whether an address of the range has no lease. Leases of a former range do not count.
fn has_unleased(state: &State, subnet: Subnet) -> bool {
    let leased = state.leases.iter().filter(|lease| subnet.contains(lease.address)).count();
    leased < subnet.capacity()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use sluice_pod::lease::{BootInstant, Lease, LeaseKey};

    use super::*;

    #[test]
    fn the_last_address_counts_and_former_ranges_do_not() {
        let subnet: Subnet = "10.244.1.0/29".parse().unwrap();
        let mut state = State::default();
        let mut add = |address: &str| {
            state.leases.push(Lease {
                address: address.parse().unwrap(),
                key: LeaseKey { container_id: address.into(), ifname: "eth0".into() },
                network: "sluice".into(),
                pod_namespace: None,
                pod_name: None,
                netns: String::new(),
                host_ifname: String::new(),
                since: BootInstant { boot_id: "one".into(), seconds: 1 },
            });
            has_unleased(&state, subnet)
        };
        assert!(add("10.244.9.2"), "of a former range");
        for address in ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5"] {
            assert!(add(address));
        }
        assert!(!add("10.244.1.6"));
    }
}
