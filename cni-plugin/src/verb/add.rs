//! ADD: leases an address and creates the pod's network; removes everything if a step fails.

use std::error::Error;
use std::path::Path;

use sluice_bpf::attach::Mechanism;
use sluice_bpf::error_chain;
use sluice_bpf::netlink::Netlink;
use sluice_pod::lease::{
    AllocError, BootInstant, Entry, InUse, Lease, LeaseKey, Number, Request, Store, Subnet,
};
use sluice_pod::netns::{NetNs, NetNsError};
use sluice_pod::{
    CreateError, Dataplane, GATEWAY, NetworkError, PodNetwork, Reclaim, VethOptions, VethPair,
    device, identity, is_complete, pod_routes, remove_local_pod, remove_rows_of_released,
    remove_veth,
};

use super::{
    dataplane_missing, key, lock, mend, netns_exists, open_host, read_links, store_failed, warn,
    warn_of_kept,
};
use crate::spec::{
    CniError, CniResult, Environment, Interface, IpConfig, NetConf, RouteConfig, code,
};

/// MTU on a node without a default route: that of Ethernet.
const MTU_WITHOUT_UPLINK: u32 = 1500;

/// Returns the result, and the number of the lease.
pub(super) fn add(
    conf: &NetConf,
    environment: &Environment,
) -> Result<(CniResult, Number), CniError> {
    let subnet = conf.subnet()?;
    if conf.prev_result.is_some() {
        let msg = "network configuration field \"prevResult\": is set; Sluice creates the pod's \
                   interface and must be the first plugin of the list";
        return Err(CniError::new(code::UNSUPPORTED_FIELD, msg));
    }
    let path = environment.netns.as_deref().unwrap_or(Path::new(""));
    let netns = NetNs::open(path).map_err(|e| netns_failed(path, &e))?;
    let mut pod = netns.netlink().map_err(|e| netns_failed(path, &e))?;
    let mut host = open_host()?;
    let dataplane =
        Dataplane::open(&conf.pins).map_err(|e| dataplane_missing(code::TRY_AGAIN, &e))?;
    let options = VethOptions {
        mtu: mtu(conf, &mut host)?,
        // The bandwidth plugin needs the ingress qdisc when it limits what a pod sends.
        mechanism: if conf.limits_egress { Mechanism::Tcx } else { Mechanism::Clsact },
    };
    let store = Store::new(&conf.state_dir);
    // Until the end: a DEL of this attachment runs before this ADD or after it.
    let _attachment = store.lock_attachment(&key(environment)).map_err(store_failed)?;
    let lease = lease_address(&store, conf, subnet, environment, &mut host, &mut pod)?;
    let create = |host: &mut Netlink, pod: &mut Netlink| {
        PodNetwork { host, lease: &lease }.create(&netns, pod, options, &dataplane, &store)
    };
    let mut created = create(&mut host, &mut pod);
    if created.as_ref().is_err_and(CreateError::is_name_in_use) {
        // Not looked for before: each request waits for those of other ADDs.
        remove_interrupted(conf, &mut host, &mut pod, None, &lease.key)
            .inspect_err(|_| undo(&store, conf, &mut host, &lease, false))?;
        created = create(&mut host, &mut pod);
    }
    let pair = created.map_err(|e| {
        undo(&store, conf, &mut host, &lease, e.has_device);
        create_failed(&e.source)
    })?;
    // The device keeps the lease; other programs may have deleted it.
    if !store.holds(&lease).map_err(store_failed)? {
        undo(&store, conf, &mut host, &lease, true);
        return Err(create_failed(&NetworkError::Released));
    }
    let number = Number { index: lease.index, generation: lease.generation };
    Ok((result(&lease, pair, options.mtu), number))
}

fn mtu(conf: &NetConf, host: &mut Netlink) -> Result<u32, CniError> {
    if let Some(mtu) = conf.mtu {
        return Ok(mtu);
    }
    let uplink = device::uplink_mtu(host)
        .map_err(|e| CniError::caused(code::IO, "cannot read the MTU of the uplink", &e))?;
    Ok(uplink.unwrap_or(MTU_WITHOUT_UPLINK))
}

fn create_failed(e: &NetworkError) -> CniError {
    match e {
        NetworkError::Released => {
            let msg = "the address was released while ADD ran; the runtime tries again";
            CniError::new(code::TRY_AGAIN, msg)
        }
        e @ NetworkError::StateUnknown { .. } => {
            let msg = "the pod's network may not work; the runtime tries again. If this error stays, look for \
                       a lack of memory in the kernel log of the node";
            CniError::caused(code::TRY_AGAIN, msg, e)
        }
        e => CniError::caused(code::IO, "the pod's network cannot be created", e),
    }
}

fn netns_failed(path: &Path, e: &NetNsError) -> CniError {
    let code = match e {
        NetNsError::Missing => code::UNKNOWN_CONTAINER,
        NetNsError::WrongKind(_) | NetNsError::Own => code::INVALID_ENVIRONMENT,
        NetNsError::Io(_) | NetNsError::Netlink(_) => code::IO,
    };
    CniError::caused(code, format!("CNI_NETNS {}", path.display()), e)
}

/// Removes the remains of an interrupted ADD of this attachment, then leases an address.
fn lease_address(
    store: &Store,
    conf: &NetConf,
    subnet: Subnet,
    environment: &Environment,
    host: &mut Netlink,
    pod: &mut Netlink,
) -> Result<Lease, CniError> {
    let key = key(environment);
    let host_ports = conf.host_ports()?;
    let (locked, now) = lock(store, conf, &format!("ADD of {}", environment.owner()), host)?;
    let name = identity::host_ifname(&key);
    let in_use = || store.in_use(&name).map_err(store_failed);
    let mut present = in_use()?;
    if let Some(earlier) = present.own().cloned() {
        remove_interrupted(conf, host, pod, Some(&earlier), &key)?;
        locked.release([&earlier], &now).map_err(store_failed)?;
        present = in_use()?;
    }
    let request = Request {
        key,
        network: conf.name.clone(),
        pod_namespace: environment.pod.namespace.clone(),
        pod_name: environment.pod.name.clone(),
        pod_uid: environment.pod.uid.clone(),
        netns: environment.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        host_ports,
        netns_cookie: pod.netns_cookie(),
    };
    let allocate = |present: &InUse| {
        locked.allocate(present, subnet, request.clone(), &now).map_err(store_failed)
    };
    let lease = match allocate(&present)? {
        Err(AllocError::Exhausted { .. } | AllocError::TooManyPods) => {
            let damaged = store.read().map_err(store_failed)?.damaged;
            mend(&locked, &damaged, conf, host, &now)?;
            // The time is that before the devices are read: a lease that is younger may have none yet.
            let (links, leases) = (read_links(host)?, store.read().map_err(store_failed)?.leases);
            // The reuse delay begins now, also if this ADD has to be repeated.
            let reclaim = Reclaim { locked: &locked, pins: &conf.pins, now: &now };
            let reclaimed = reclaim.dead(leases, &links, netns_exists).map_err(store_failed)?;
            warn_of_kept(&reclaimed.kept);
            allocate(&in_use()?)?
        }
        other => other,
    };
    lease.map_err(|e| no_address(&e))
}

fn no_address(e: &AllocError) -> CniError {
    match e {
        AllocError::TooManyPods => {
            CniError::new(code::EXHAUSTED, format!("{e}; delete pods of this node"))
        }
        AllocError::Exhausted { .. } => {
            let remedy = "delete pods or give the node a larger range";
            CniError::new(code::EXHAUSTED, format!("{e}; {remedy}"))
        }
        AllocError::ReuseDelay { .. } => {
            CniError::new(code::TRY_AGAIN, format!("{e}; the runtime tries again"))
        }
    }
}

/// Removes the network that an interrupted ADD of this attachment left: a veth pair without the
/// host's route. A complete network, or a foreign interface of that name, is a repeated ADD or a
/// conflict.
fn remove_interrupted(
    conf: &NetConf,
    host: &mut Netlink,
    pod: &mut Netlink,
    lease: Option<&Entry>,
    key: &LeaseKey,
) -> Result<(), CniError> {
    let failed = |e| CniError::caused(code::IO, "cannot inspect an earlier ADD", &e);
    let name = identity::host_ifname(key);
    if let Some(link) = device::link_by_name(host, &name).map_err(failed)? {
        let complete = match lease {
            Some(lease) => is_complete(host, lease.address, link.index).map_err(failed)?,
            None => false,
        };
        if complete && device::link_by_name(pod, &key.ifname).map_err(failed)?.is_some() {
            let msg = format!("interface {} already exists: ADD ran before", key.ifname);
            return Err(CniError::new(code::EXISTS, msg));
        }
        remove_veth(host, &name).map_err(failed)?;
    }
    if let Some(lease) = lease {
        remove_local_pod(&conf.pins, lease.into()).map_err(|e| {
            let msg = format!("cannot delete the row of {} of an earlier ADD", lease.address);
            CniError::caused(code::IO, msg, &e)
        })?;
    }
    if device::link_by_name(pod, &key.ifname).map_err(failed)?.is_some() {
        let msg = format!("interface {} already exists and does not belong to Sluice", key.ifname);
        return Err(CniError::new(code::EXISTS, msg));
    }
    Ok(())
}

/// Undoes a failed ADD: removes what this ADD made, in reverse order, and warns about what cannot be
/// removed. An address whose device or row remains is not released: it could reach another pod.
fn undo(store: &Store, conf: &NetConf, host: &mut Netlink, lease: &Lease, has_device: bool) {
    let failed = |what: &str, e: &(dyn Error + 'static)| {
        warn(format_args!("pod {}: {what}: {}", lease.owner(), error_chain(e)));
    };
    let veth = match has_device {
        true => remove_veth(host, &lease.host_ifname),
        false => Ok(()),
    };
    if let Err(e) = &veth {
        failed("failed ADD not undone", e);
    }
    let locked = store.lock(&format!("failed ADD of {}", lease.owner()));
    let now = BootInstant::now().unwrap_or_else(|_| lease.since.clone());
    let (locked, holds) = match locked.and_then(|locked| Ok((locked, store.holds(lease)?))) {
        Ok(locked) => locked,
        Err(e) => return failed("address not released", &e),
    };
    // ADD writes rows after it has created the device.
    let rows = match (has_device, holds) {
        (false, _) => Ok(()),
        (true, true) => remove_local_pod(&conf.pins, lease.into()),
        (true, false) => remove_rows_of_released(&conf.pins, lease),
    };
    if let Err(e) = &rows {
        failed("failed ADD not undone", e);
    }
    if veth.is_ok()
        && rows.is_ok()
        && holds
        && let Err(e) = locked.release([&Entry::of(lease)], &now)
    {
        failed("address not released", &e);
    }
}

fn result(lease: &Lease, pair: VethPair, mtu: u32) -> CniResult {
    let (host_mac, pod_mac) = identity::macs(&lease.key);
    let sandbox = Some(lease.netns.clone());
    CniResult {
        interfaces: vec![
            Interface { name: pair.host.name, mac: host_mac, mtu, sandbox: None },
            Interface { name: pair.pod.name, mac: pod_mac, mtu, sandbox },
        ],
        ips: vec![IpConfig { interface: 1, address: lease.address, prefix: 32, gateway: GATEWAY }],
        routes: pod_routes(pair.pod.index)
            .map(|r| RouteConfig { dst: r.dst, prefix: r.prefix, gateway: r.gateway })
            .into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io;

    use sluice_bpf::netlink::NetlinkError;
    use sluice_pod::device::Link;
    use sluice_pod::lease::fixture;

    use super::*;
    use crate::spec::{Version, golden};

    #[test]
    fn a_full_range_and_a_reuse_delay_have_different_codes() {
        let subnet = "10.244.1.0/29".parse().unwrap();
        let error = no_address(&AllocError::Exhausted { capacity: 5, subnet });
        assert_eq!(error.code, code::EXHAUSTED);
        assert!(error.msg.contains("all 5 pod addresses of 10.244.1.0/29"), "{}", error.msg);
        let error = no_address(&AllocError::ReuseDelay { subnet, seconds: 3 });
        assert_eq!(error.code, code::TRY_AGAIN);
        assert!(error.msg.contains("free in 3 s"), "{}", error.msg);
    }

    /// The runtime repeats the ADD, which gets another address.
    #[test]
    fn an_address_that_was_released_while_add_ran_has_the_code_for_another_attempt() {
        assert_eq!(create_failed(&NetworkError::Released).code, code::TRY_AGAIN);
        let other = create_failed(&NetworkError::DeviceMissing("slc0".into()));
        assert_eq!(other.code, code::IO);
        assert!(other.msg.contains("slc0"), "{}", other.msg);
    }

    /// ADD does not report a network of which it does not know whether it works.
    #[test]
    fn a_device_whose_state_cannot_be_read_is_named_with_a_remedy() {
        let source = io::Error::from_raw_os_error(105).into();
        let source =
            NetlinkError { operation: "read the state of network device 7".into(), source };
        let e = create_failed(&NetworkError::StateUnknown { device: "slc0".into(), source });
        assert_eq!(e.code, code::TRY_AGAIN);
        for words in ["network device slc0", "device 7", "tries again", "kernel log"] {
            assert!(e.msg.contains(words), "{words:?} is not in {:?}", e.msg);
        }
    }

    #[test]
    fn a_network_namespace_that_cannot_be_used_has_a_code_by_its_cause() {
        for (e, code) in [
            (NetNsError::Missing, code::UNKNOWN_CONTAINER),
            (NetNsError::Own, code::INVALID_ENVIRONMENT),
            (NetNsError::WrongKind(io::Error::other("")), code::INVALID_ENVIRONMENT),
            (NetNsError::Io(io::Error::other("")), code::IO),
        ] {
            assert_eq!(netns_failed(Path::new("/run/netns/c1"), &e).code, code, "{e:?}");
        }
    }

    #[test]
    fn the_result_describes_both_ends() {
        let lease = fixture::lease("c1");
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            mac: None,
            alias: None,
            mtu: 1500,
            up: true,
            layer: sluice_pod::device::LinkLayer::Ethernet,
            loopback: false,
            master: None,
            veth: false,
            vlan_of: None,
        };
        let pair = VethPair { host: link(12, &lease.host_ifname), pod: link(2, "eth0") };
        let result = result(&lease, pair, 1450);
        golden("result-of-add", &result.to_json(Version::NEWEST));
    }
}
