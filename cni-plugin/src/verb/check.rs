//! CHECK: lease, devices, addresses, routes, neighbours, programs and the dataplane's row are as
//! ADD left them.

use std::path::Path;

use serde_json::Value;

use super::{key, open_host, store_failed};
use crate::spec::{CniError, Environment, NetConf, code};
use sluice_pod::lease::{Lease, Store};
use sluice_pod::netns::NetNs;
use sluice_pod::pins::Dataplane;
use sluice_pod::wiring::Wire;

pub(super) fn check(conf: &NetConf, environment: &Environment) -> Result<(), CniError> {
    inspect(conf, environment).map_err(|e| e.about(&environment.owner()))
}

fn inspect(conf: &NetConf, environment: &Environment) -> Result<(), CniError> {
    let Some(previous) = &conf.prev_result else {
        let msg = "network configuration field \"prevResult\": is missing, CHECK needs it";
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    };
    let state = Store::new(&conf.state_dir).read().map_err(store_failed)?;
    let lease = state
        .find(&key(environment))
        .ok_or_else(|| CniError::new(code::UNKNOWN_CONTAINER, "it has no address on this node"))?;
    compare(previous, lease)?;
    let path = environment.netns.as_deref().unwrap_or(Path::new(""));
    let failed = |e| CniError::caused(code::CHANGED, format!("CNI_NETNS {}", path.display()), &e);
    let mut pod = NetNs::open(path).and_then(|netns| netns.netlink()).map_err(failed)?;
    let mut host = open_host()?;
    let dataplane = Dataplane::open(&conf.pins)
        .map_err(|e| CniError::caused(code::CHANGED, "the dataplane is not loaded", &e))?;
    Wire { host: &mut host, pod: &mut pod, lease }
        .verify(&dataplane)
        .map_err(|e| CniError::caused(code::CHANGED, "the wire is not as ADD left it", &e))
}

/// The runtime's idea of the attachment and ours must be the same. Later plugins of the list may
/// have added to the result.
fn compare(previous: &Value, lease: &Lease) -> Result<(), CniError> {
    let holds = |list: &str, field: &str, wanted: &str| {
        previous[list].as_array().is_some_and(|all| all.iter().any(|one| one[field] == wanted))
    };
    let wanted = [
        ("ips", "address", format!("{}/32", lease.address)),
        ("interfaces", "name", lease.key.ifname.clone()),
        ("interfaces", "name", lease.host_ifname.clone()),
    ];
    for (list, field, value) in wanted {
        if !holds(list, field, &value) {
            let msg = format!("prevResult has no {value} among its {list}");
            return Err(CniError::new(code::CHANGED, msg));
        }
    }
    Ok(())
}
