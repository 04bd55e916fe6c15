//! Removal. What does not exist is not an error: a pod whose network is half created, or already
//! removed, must be deletable.
//!
//! Rows are removed under the lock of the leases: between the look-up of a row and its deletion, an ADD
//! could write the row of another pod.

use std::net::Ipv4Addr;
use std::path::Path;

use sluice_abi::Addr;
use sluice_bpf::BpfError;
use sluice_bpf::netlink::{Netlink, NetlinkError};

use crate::dataplane::{PodRows, RowNumber};
use crate::lease::{Entry, Lease};
use crate::{HostPort, device, host_port};

/// What the rows of a lease are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKeys<'a> {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Its index and generation.
    pub number: RowNumber,
    /// Its hostPorts; `None` if they are not known.
    pub host_ports: Option<&'a [HostPort]>,
    /// Cookie of its network namespace; `None` if it is not known.
    pub netns_cookie: Option<u64>,
}

impl<'a> From<&'a Lease> for RowKeys<'a> {
    fn from(lease: &'a Lease) -> RowKeys<'a> {
        RowKeys {
            address: lease.address,
            number: RowNumber { index: lease.index, generation: Some(lease.row_generation()) },
            host_ports: lease.host_ports.as_deref(),
            netns_cookie: lease.netns_cookie,
        }
    }
}

/// Of a damaged lease: all rows of its address and index.
impl From<&Entry> for RowKeys<'_> {
    fn from(entry: &Entry) -> Self {
        let number = RowNumber { index: entry.index, generation: None };
        RowKeys { address: entry.address, number, host_ports: None, netns_cookie: None }
    }
}

/// Deletes the host's end of a veth pair, and with it the pod's end, its routes, neighbour entries
/// and attachments.
///
/// # Errors
/// The device exists and cannot be deleted.
pub fn remove_veth(host: &mut Netlink, host_ifname: &str) -> Result<(), NetlinkError> {
    device::delete_link(host, host_ifname).map(|_| ())
}

/// Deletes the rows of a lease: in `HOST_PORTS`, `POD_NETNS`, `LOCAL_PODS` and `PODS`; does nothing if
/// no dataplane is loaded. The caller holds the lock, and the lease exists: no other pod has its
/// address or index.
///
/// # Errors
/// A map exists and cannot be opened, or a row exists and cannot be deleted. The others are deleted.
pub fn remove_local_pod(pins: &Path, keys: RowKeys<'_>) -> Result<(), BpfError> {
    let host_ports = host_port::remove(pins, keys.address, keys.host_ports);
    let Some(rows) = PodRows::open_if_pinned(pins)? else { return host_ports };
    let address = Addr::from(keys.address);
    rows.remove_netns(keys.netns_cookie, address);
    rows.remove(address, keys.number)?;
    host_ports
}

/// Deletes the rows that only this lease can have written, after it was released: another pod can have
/// its address or index. Who released it has deleted them; its hostPorts cannot be told from those of
/// another pod.
///
/// # Errors
/// As for [`remove_local_pod`].
pub fn remove_rows_of_released(pins: &Path, lease: &Lease) -> Result<(), BpfError> {
    let Some(rows) = PodRows::open_if_pinned(pins)? else { return Ok(()) };
    let address = Addr::from(lease.address);
    if lease.netns_cookie.is_some() {
        rows.remove_netns(lease.netns_cookie, address);
    }
    rows.remove_numbered(address, RowKeys::from(lease).number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use sluice_abi::map;

    use super::*;
    use crate::Protocol;
    use crate::lease::fixture;

    /// The address of a lease would be released, and its row lead to the next pod.
    #[test]
    fn a_map_that_exists_and_cannot_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let port = HostPort {
            host_ip: Ipv4Addr::UNSPECIFIED,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let lease = Lease { host_ports: Some(vec![port]), ..fixture::lease("c1") };
        let remove = || remove_local_pod(dir.path(), (&lease).into()).map_err(|e| e.operation);
        assert_eq!(remove(), Ok(()), "no dataplane is loaded");
        let maps = dir.path().join("maps");
        fs::create_dir(&maps).unwrap();
        for name in [map::HOST_PORTS, map::LOCAL_PODS] {
            // Not a pin.
            fs::write(maps.join(name), "").unwrap();
            let error = remove().unwrap_err();
            assert!(error.contains(name), "{error}");
            let released = remove_rows_of_released(dir.path(), &lease);
            assert_eq!(released.is_err(), name == map::LOCAL_PODS, "{released:?}");
            fs::remove_file(maps.join(name)).unwrap();
        }
    }

    #[test]
    fn rows_are_found_by_the_lease_and_without_its_content_by_address_and_index() {
        let lease = Lease { netns_cookie: Some(4711), ..fixture::lease("c1") };
        let generation = Some(lease.row_generation());
        let keys = RowKeys {
            address: lease.address,
            number: RowNumber { index: lease.index, generation },
            host_ports: Some(&[]),
            netns_cookie: Some(4711),
        };
        assert_eq!(RowKeys::from(&lease), keys);
        let damaged = RowKeys {
            number: RowNumber { generation: None, ..keys.number },
            host_ports: None,
            netns_cookie: None,
            ..keys
        };
        assert_eq!(RowKeys::from(&Entry::of(&lease)), damaged);
    }
}
