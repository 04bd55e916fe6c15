//! The configuration that the programs read: addresses, MTU, SNAT ports, flags.

use std::net::IpAddr;

use sluice_abi::{Addr, NodeConfig, node_flags};
use sluice_core::table::{NodeConfigs, Table, Write};
use sluice_pod::GATEWAY;

use super::{NO_UPLINK, NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::config::Config;
use crate::host::Uplink;
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
        let ready = state.tables_written() || actual.flags & node_flags::READY != 0;
        let desired = desired(state.config(), uplink, ready);
        if desired != actual
            && let Some(write) = Write::put::<NodeConfigs>([(0, desired)])
        {
            kernel.write(&write)?;
        }
        if state.config().mtu.is_none() && actual.mtu != 0 && actual.mtu != desired.mtu {
            state.add_old_mtu(actual.mtu);
        }
        Ok(())
    }
}

fn desired(config: &Config, uplink: &Uplink, ready: bool) -> NodeConfig {
    let address = |a: Option<IpAddr>| a.map_or(Addr::UNSPECIFIED, Addr::from);
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    NodeConfig {
        addrs: [address(uplink.v4), address(uplink.v6)],
        gateways: [GATEWAY.into(), Addr::UNSPECIFIED],
        flags: flag(ready, node_flags::READY) | flag(config.masquerade, node_flags::MASQUERADE),
        snat_port_min: config.snat_ports.0,
        snat_port_max: config.snat_ports.1,
        mtu: uplink.link.mtu,
    }
}
