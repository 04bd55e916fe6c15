//! ADD: an address, a wire, a row in the dataplane; all of it or nothing.

use std::path::Path;

use super::{key, liveness, load, now, open_host, store_failed, warn};
use crate::spec::{
    CniError, Environment, Interface, IpConfig, NetConf, Outcome, RouteConfig, code,
};
use sluice_bpf::attach::Mechanism;
use sluice_bpf::netlink::Netlink;
use sluice_pod::device;
use sluice_pod::identity::{self, GATEWAY};
use sluice_pod::lease::{AllocError, Lease, LeaseKey, Store};
use sluice_pod::netns::{NetNs, NetNsError};
use sluice_pod::pins::Dataplane;
use sluice_pod::wiring::{self, Wire, pod_routes};

/// What a node has that no default route tells the MTU of: Ethernet's.
const MTU_WITHOUT_UPLINK: u32 = 1500;

pub(super) fn add(conf: &NetConf, environment: &Environment) -> Result<Outcome, CniError> {
    conf.subnet()?;
    if conf.prev_result.is_some() {
        let msg = "prevResult is set: sluice gives the pod its interface, so it must be the first \
                   plugin of the list";
        return Err(CniError::new(code::UNSUPPORTED_FIELD, msg));
    }
    let path = environment.netns.as_deref().unwrap_or(Path::new(""));
    let netns = NetNs::open(path).map_err(|e| netns_failed(path, &e))?;
    let mut pod = netns.netlink().map_err(|e| netns_failed(path, &e))?;
    let mut host = open_host()?;
    let dataplane = Dataplane::open(&conf.pins).map_err(|e| {
        let msg = "the dataplane is not loaded on this node; is the sluice agent running?";
        CniError::caused(code::TRY_AGAIN, msg, &e)
    })?;
    let mtu = match conf.mtu {
        Some(mtu) => mtu,
        None => device::uplink_mtu(&mut host)
            .map_err(|e| CniError::caused(code::IO, "find the MTU of the uplink", &e))?
            .unwrap_or(MTU_WITHOUT_UPLINK),
    };

    let lease = take_address(conf, environment, &mut host, &mut pod)?;
    // The bandwidth plugin wants the ingress qdisc for itself when it limits what a pod sends.
    let mechanism = if conf.limits_egress { Mechanism::Tcx } else { Mechanism::Clsact };
    let connected = Wire { host: &mut host, pod: &mut pod, lease: &lease }
        .connect(&netns, mtu, mechanism, &dataplane);
    let (host_end, pod_end) = connected.map_err(|e| {
        undo(conf, &mut host, &lease);
        CniError::caused(code::IO, "the pod could not be wired", &e)
    })?;
    let (host_mac, pod_mac) = identity::macs(&lease.key);
    let sandbox = Some(path.display().to_string());
    Ok(Outcome {
        interfaces: vec![
            Interface { name: host_end.name, mac: host_mac, mtu, sandbox: None },
            Interface { name: pod_end.name, mac: pod_mac, mtu, sandbox },
        ],
        ips: vec![IpConfig { interface: 1, address: lease.address, prefix: 32, gateway: GATEWAY }],
        routes: pod_routes(pod_end.index)
            .map(|r| RouteConfig { dst: r.dst, prefix: r.prefix, gateway: r.gateway })
            .into(),
    })
}

fn netns_failed(path: &Path, e: &NetNsError) -> CniError {
    let code = match e {
        NetNsError::Missing => code::UNKNOWN_CONTAINER,
        NetNsError::NotOne(_) | NetNsError::Own => code::INVALID_ENVIRONMENT,
        NetNsError::Io(_) | NetNsError::Netlink(_) => code::IO,
    };
    CniError::caused(code, format!("CNI_NETNS {}", path.display()), e)
}

/// Clears what an ADD of this attachment left that died half-way, then leases an address.
fn take_address(
    conf: &NetConf,
    environment: &Environment,
    host: &mut Netlink,
    pod: &mut Netlink,
) -> Result<Lease, CniError> {
    let key = key(environment);
    let subnet = conf.subnet()?;
    let store = Store::new(&conf.state_dir);
    let locked = store.lock().map_err(store_failed)?;
    let now = now()?;
    let mut state = load(&locked, host, &conf.name, &now)?;

    clear_remains(conf, host, pod, state.find(&key), &key)?;
    state.release(&key, &now);
    let address = match state.choose(subnet, &now) {
        Err(AllocError::Exhausted { .. }) => {
            let links = liveness(host)?;
            let gone = state.reclaim(&now, |lease| links.is_live(lease, &now));
            if !gone.is_empty() {
                // Their rest begins now: keep it even if this ADD has to try again.
                locked.save(&state).map_err(store_failed)?;
            }
            state.choose(subnet, &now)
        }
        other => other,
    };
    let address = address.map_err(|e| match e {
        AllocError::Exhausted { .. } => CniError::new(code::EXHAUSTED, e.to_string()),
        AllocError::Resting { .. } => {
            CniError::new(code::TRY_AGAIN, format!("{e}; try again later"))
        }
    })?;
    let netns = environment.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let lease = Lease {
        address,
        host_ifname: identity::host_ifname(&key),
        key,
        network: conf.name.clone(),
        pod_namespace: environment.pod.namespace.clone(),
        pod_name: environment.pod.name.clone(),
        netns,
        since: now,
    };
    state.leases.push(lease.clone());
    locked.save(&state).map_err(store_failed)?;
    Ok(lease)
}

/// An ADD that died half-way leaves a pair without a host route; a complete one, or somebody
/// else's interface of that name, is the runtime's mistake.
fn clear_remains(
    conf: &NetConf,
    host: &mut Netlink,
    pod: &mut Netlink,
    lease: Option<&Lease>,
    key: &LeaseKey,
) -> Result<(), CniError> {
    let failed = |e| CniError::caused(code::IO, "look for remains of an earlier ADD", &e);
    let name = identity::host_ifname(key);
    if let Some(link) = device::link_by_name(host, &name).map_err(failed)? {
        let complete = match lease {
            Some(lease) => wiring::is_complete(host, lease, link.index).map_err(failed)?,
            None => false,
        };
        let inside = device::link_by_name(pod, &key.ifname).map_err(failed)?;
        if complete && inside.is_some() {
            let msg = format!("interface {} exists already: ADD came twice", key.ifname);
            return Err(CniError::new(code::EXISTS, msg));
        }
        wiring::cut(host, &name).map_err(failed)?;
    }
    if let Some(lease) = lease {
        wiring::forget_local_pod(&conf.pins, lease)
            .map_err(|e| CniError::caused(code::IO, "forget an earlier ADD", &e))?;
    }
    if device::link_by_name(pod, &key.ifname).map_err(failed)?.is_some() {
        let msg = format!("interface {} exists already, and sluice did not make it", key.ifname);
        return Err(CniError::new(code::EXISTS, msg));
    }
    Ok(())
}

/// Takes back what a failed ADD did, last thing first; says what it could not take back.
fn undo(conf: &NetConf, host: &mut Netlink, lease: &Lease) {
    if let Err(e) = wiring::cut(host, &lease.host_ifname) {
        warn("undo ADD", &e);
    }
    if let Err(e) = wiring::forget_local_pod(&conf.pins, lease) {
        warn("undo ADD", &e);
    }
    let store = Store::new(&conf.state_dir);
    let freed = store.lock().and_then(|locked| {
        let mut state = store.read()?;
        state.release(&lease.key, &lease.since);
        locked.save(&state)
    });
    if let Err(e) = freed {
        warn("undo ADD", &e);
    }
}
