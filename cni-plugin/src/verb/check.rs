//! CHECK: compares lease, devices, addresses, routes, neighbours, programs and the `LOCAL_PODS` row
//! with what ADD created.

use std::io;
use std::path::Path;

use serde_json::Value;
use sluice_pod::lease::{Lease, Store};
use sluice_pod::netns::NetNs;
use sluice_pod::{Dataplane, PodNetwork};

use super::{dataplane_missing, key, lock, open_host, store_failed};
use crate::spec::{CniError, Environment, NetConf, code};

pub(super) fn check(conf: &NetConf, environment: &Environment) -> Result<(), CniError> {
    let previous = conf.prev_result()?;
    let lease = find(conf, environment)?;
    compare(previous, &lease)?;
    let path = environment.netns.as_deref().unwrap_or(Path::new(""));
    let mut pod = NetNs::open(path).and_then(|netns| netns.netlink()).map_err(|e| {
        CniError::caused(code::CHANGED, format!("CNI_NETNS {}", path.display()), &e)
    })?;
    let mut host = open_host()?;
    let dataplane =
        Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::CHANGED, &e))?;
    PodNetwork { host: &mut host, lease: &lease }.verify(&mut pod, &dataplane).map_err(|e| {
        CniError::caused(code::CHANGED, "the pod's network differs from what ADD created", &e)
    })
}

fn find(conf: &NetConf, environment: &Environment) -> Result<Lease, CniError> {
    let store = Store::new(&conf.state_dir);
    if store.has_former() {
        lock(&store, conf, "CHECK", &mut open_host()?)?;
    }
    match store.find(&key(environment)) {
        Ok(Some(lease)) => Ok(lease),
        Ok(None) => {
            let msg = "has no address on this node; ADD did not run";
            Err(CniError::new(code::UNKNOWN_CONTAINER, msg))
        }
        Err(e) if e.source.kind() == io::ErrorKind::InvalidData => {
            Err(CniError::caused(code::CHANGED, "the pod's lease is damaged", &e))
        }
        Err(e) => Err(store_failed(e)),
    }
}

/// Compares the runtime's result of ADD with the lease. Later plugins of the list may have added to
/// the result.
fn compare(previous: &Value, lease: &Lease) -> Result<(), CniError> {
    let expected = [
        ("ips", "address", format!("{}/32", lease.address)),
        ("interfaces", "name", lease.key.ifname.clone()),
        ("interfaces", "name", lease.host_ifname.clone()),
    ];
    for (list, field, value) in expected {
        let found = previous[list]
            .as_array()
            .is_some_and(|entries| entries.iter().any(|entry| entry[field] == value.as_str()));
        if !found {
            let msg = format!("prevResult: {list:?} has no entry with {field} {value}");
            return Err(CniError::new(code::CHANGED, msg));
        }
    }
    Ok(())
}
