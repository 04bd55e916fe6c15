//! Objects to rows in the kernel, and to routes.

use sluice_abi::{Addr, NodeConfig, node_flags};
use sluice_core::Changed;
use sluice_core::model::Kind;

use super::{Node, Subject, chain};
use crate::dataplane::{read_back, writer};
use crate::host::routes::{Hop, Routes};
use crate::{answers, endpoints, sockets};

impl Node {
    pub(super) fn write_tables(&mut self) {
        if !self.index.synced() {
            return;
        }
        let mut dirty = self.index.take_dirty();
        dirty.nodes |= std::mem::take(&mut self.nodes_dirty);
        let changed = self.tables.update(&self.index, &dirty, &self.surroundings);
        self.unwritten.frontends.extend(changed.frontends);
        self.unwritten.networks.extend(changed.networks);
        self.unwritten.routes |= changed.routes;
        let nothing = self.unwritten.is_empty() && !self.problems.contains_key(&Subject::Capacity);
        if self.tables_written && nothing && !std::mem::take(&mut self.compare_all) {
            return;
        }
        // This node's own range has a route too, and shows itself as a network.
        self.todo.routes |=
            self.unwritten.routes || !self.unwritten.networks.is_empty() || !self.tables_written;
        let result = self.carry_out();
        self.tables_written |= result.is_ok();
        self.outcome(Subject::Tables, result);
        let conflicts: Vec<String> =
            self.tables.conflicts().map(|c| answers::conflict(&c)).collect();
        let told = if conflicts.is_empty() { Ok(()) } else { Err(conflicts.join("; ")) };
        self.outcome(Subject::Conflicts, told);
    }

    /// Plans and writes, once more at once if that makes room.
    pub(super) fn carry_out(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            let plan = self.programmed.plan(&self.tables, &self.unwritten);
            if let Err(e) = writer::apply(&self.parts.maps, &plan.ops) {
                self.read_back();
                return Err(chain(&e));
            }
            if !plan.ops.is_empty() && !self.tables_written {
                tracing::info!(ops = plan.ops.len(), "tables written");
            } else {
                tracing::debug!(ops = plan.ops.len(), "tables written");
            }
            self.unwritten = Changed::default();
            let state_dir = &self.config.cni_state_dir;
            sockets::end_stale_udp(&plan.stale_udp, || endpoints::namespaces(state_dir));
            let again = plan.worth_retrying();
            let refused: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
            let told = if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) };
            self.outcome(Subject::Capacity, told);
            if !again {
                break;
            }
        }
        Ok(())
    }

    /// Looks at the tables as they are; the next plan compares everything.
    pub(super) fn read_back(&mut self) {
        match read_back::read_back(&self.parts.maps) {
            Ok(found) => {
                self.programmed.resync(found);
                self.compare_all = true;
            }
            Err(e) => tracing::warn!(error = %chain(&e), "tables not read back"),
        }
    }

    pub(super) async fn write_routes(&mut self) {
        // Routes of nodes that are only not listed yet must not go.
        if !self.index.listed(Kind::Node) || !self.tables_written {
            return;
        }
        let mut desired: Routes =
            self.tables.routes().iter().map(|(net, hop)| (*net, Hop::Via(*hop))).collect();
        desired.extend(self.pod_cidrs().into_iter().map(|net| (net, Hop::Unreachable)));
        let result = match self.parts.host.sync_routes(&desired).await {
            Ok(synced) => {
                if synced.written + synced.removed > 0 {
                    tracing::info!(written = synced.written, removed = synced.removed, "routes");
                }
                let refused: Vec<String> =
                    synced.refused.iter().map(|(net, why)| format!("{net}: {why}")).collect();
                if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
            }
            Err(e) => Err(chain(&e)),
        };
        self.outcome(Subject::Routes, result);
    }

    /// Tells the programs what they must know of the node. Once ready they stay so: an agent that
    /// starts again changes nothing for pods that run.
    pub(super) fn write_configuration(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        let result = (|| {
            let now = self.parts.maps.node_config.lookup(&0)?.unwrap_or_default();
            let address = |a: Option<std::net::IpAddr>| a.map_or(Addr::UNSPECIFIED, Addr::from);
            let mut flags = now.flags & node_flags::READY;
            if self.tables_written {
                flags |= node_flags::READY;
            }
            if self.config.masquerade {
                flags |= node_flags::MASQUERADE;
            }
            let wanted = NodeConfig {
                addrs: [address(uplink.v4), address(uplink.v6)],
                gateways: [sluice_pod::GATEWAY.into(), Addr::UNSPECIFIED],
                flags,
                snat_port_min: self.config.snat_ports.0,
                snat_port_max: self.config.snat_ports.1,
                mtu: uplink.link.mtu,
            };
            if wanted != now {
                self.parts.maps.node_config.update(&0, &wanted)?;
            }
            if self.config.mtu.is_none() && now.mtu != 0 && now.mtu != wanted.mtu {
                self.mtu_moved = Some((now.mtu, wanted.mtu));
            }
            Ok(())
        })();
        self.outcome(Subject::Configuration, result.map_err(|e: sluice_bpf::BpfError| chain(&e)));
    }
}
