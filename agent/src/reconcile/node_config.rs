//! The configuration that the programs read: addresses, MTU, SNAT ports, flags.

use std::net::IpAddr;

use sluice_abi::{Addr, Family, NodeConfig, PortRange, node_flags};
use sluice_core::ObjectName;
use sluice_core::model::Kind;
use sluice_core::table::{NodeConfigs, Table, Write};
use sluice_pod::GATEWAY;

use super::{NO_UPLINK, NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::config::Config;
use crate::findings::{Finding, Reason};
use crate::host::{HostState, Uplink};
use crate::kernel::Kernel;
use crate::state::State;

/// Writes `NODE_CONFIG`.
pub struct ReconcileNodeConfig;

impl Reconciler for ReconcileNodeConfig {
    fn concern(&self) -> Concern {
        Concern::NodeConfig
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let uplink = state.uplink().ok_or(NO_UPLINK)?;
        let rows = kernel.read(NodeConfigs::SPEC)?;
        let actual = rows.typed::<NodeConfigs>().next().map(|(_, c)| c).unwrap_or_default();
        // A restart must not close the hooks of running pods: READY stays once it is set.
        let written = state.tables_written() && state.policies_written();
        let ready = written || actual.flags & node_flags::READY != 0;
        let snat_key = match actual.snat_key {
            [0, 0] => kernel.random_key()?,
            key => key,
        };
        let host = state.host();
        let ephemeral = host.ephemeral_ports;
        let mut desired = desired(state.config(), uplink, ready, host, snat_key);
        desired.flags |= actual.flags & node_flags::MIGRATION;
        let lost = keep_address(&mut desired, &actual).then(|| lost_address(uplink, &actual));
        if state.config().mtu.is_none() && actual.mtu != 0 && actual.mtu != desired.mtu {
            // Before NODE_CONFIG changes: an agent that starts after a crash does not know the
            // former MTU otherwise.
            state.add_old_mtu(actual.mtu);
            kernel.store_old_mtus(state.old_mtus())?;
        }
        if desired != actual
            && let Some(write) = Write::put::<NodeConfigs>([(0, desired)])
        {
            kernel.write(&write)?;
        }
        if desired.snat_ports.iter().all(PortRange::is_empty) {
            let message = no_ports(ephemeral);
            let node = ObjectName::cluster(state.config().node_name.as_str());
            let reason = Reason::NoSnatPort;
            state.report(Finding::without_uid(Kind::Node, node, reason, message.clone()));
            return Err(NotReconciled::Degraded(message));
        }
        lost.map_or(Ok(()), |message| Err(NotReconciled::Degraded(message)))
    }
}

fn desired(
    config: &Config,
    uplink: &Uplink,
    ready: bool,
    host: &HostState,
    snat_key: [u64; 2],
) -> NodeConfig {
    let address = |a: Option<IpAddr>| a.map_or(Addr::UNSPECIFIED, Addr::from);
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    NodeConfig {
        addrs: [address(uplink.v4), address(uplink.v6)],
        gateways: [GATEWAY.into(), Addr::UNSPECIFIED],
        flags: flag(ready, node_flags::READY) | flag(config.masquerade, node_flags::MASQUERADE),
        snat_key,
        snat_ports: config.snat_ports.without(host.ephemeral_ports),
        netns_cookie: host.netns_cookie,
        flows_per_pod: config.flows_per_pod,
        flows_without_pod: config.flows_without_pod,
        mtu: uplink.link.mtu,
    }
}

/// Keeps the IPv4 address while the uplink has none: packets with the source 0.0.0.0 would leave
/// otherwise. Returns whether it did.
fn keep_address(desired: &mut NodeConfig, actual: &NodeConfig) -> bool {
    let v4 = Family::V4 as usize;
    let lost = desired.addrs[v4] == Addr::UNSPECIFIED && actual.addrs[v4] != Addr::UNSPECIFIED;
    if lost {
        desired.addrs[v4] = actual.addrs[v4];
    }
    lost
}

fn no_ports((low, high): (u16, u16)) -> String {
    format!(
        "no port is left for masquerading: net.ipv4.ip_local_port_range is {low}-{high}. Packets that need \
         one are dropped (no_snat_port); reduce the range, or set --snat-ports"
    )
}

fn lost_address(uplink: &Uplink, actual: &NodeConfig) -> String {
    format!(
        "device {} has no IPv4 address; the former one, {}, is kept for masquerading",
        uplink.link.name,
        IpAddr::from(actual.addrs[Family::V4 as usize])
    )
}
