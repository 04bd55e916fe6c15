//! STATUS: whether ADD can succeed. Reads the pins and the lease file without a lock, so that a
//! restart of the agent or a running ADD does not make the node unready.

use sluice_pod::Dataplane;
use sluice_pod::lease::{AllocError, Leases, Subnet};

use super::add::no_address;
use super::{dataplane_missing, now, open_host, read_leases, read_links};
use crate::spec::{CniError, NetConf, code};

pub(super) fn status(conf: &NetConf) -> Result<(), CniError> {
    let subnet = conf.subnet()?;
    Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::NOT_AVAILABLE, &e))?;
    let leases = read_leases(conf)?;
    if has_unleased(&leases, subnet) {
        return Ok(());
    }
    let (links, now) = (read_links(&mut open_host()?)?, now()?);
    // ADD reclaims leases of pods that no longer exist.
    let mut leases = leases.leases.iter().filter(|lease| subnet.contains(lease.address));
    if leases.any(|lease| !links.is_live(lease, &now)) {
        return Ok(());
    }
    let exhausted = AllocError::Exhausted { capacity: subnet.capacity(), subnet };
    Err(CniError { code: code::NOT_AVAILABLE, ..no_address(&exhausted) })
}

/// Whether an address of the range has no lease. Leases of a former range do not count.
fn has_unleased(leases: &Leases, subnet: Subnet) -> bool {
    let parsed = leases.leases.iter().map(|lease| lease.address);
    let damaged = leases.damaged.iter().map(|entry| entry.address);
    parsed.chain(damaged).filter(|address| subnet.contains(*address)).count() < subnet.capacity()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use sluice_pod::lease::{Entry, Lease, fixture};

    use super::*;

    #[test]
    fn the_last_address_counts_and_former_ranges_do_not() {
        let subnet: Subnet = "10.244.1.0/29".parse().unwrap();
        let mut leases = Leases::default();
        let mut add = |address: &str| {
            let address = address.parse().unwrap();
            leases.leases.push(Lease { address, ..fixture::lease("c1") });
            has_unleased(&leases, subnet)
        };
        assert!(add("10.244.9.2"), "of a former range");
        for address in ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5"] {
            assert!(add(address));
        }
        assert!(!add("10.244.1.6"));
        // A damaged lease keeps its address.
        let lease = leases.leases.pop().unwrap();
        leases.damaged.push(Entry::of(&lease));
        assert!(!has_unleased(&leases, subnet));
    }
}
