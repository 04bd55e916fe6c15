//! The CNI binary and the CNI configuration, which make the container runtime use Sluice.
//!
//! The configuration makes a node Ready, so it is written last: the tables are written, the uplink
//! has its programs, the programs have their configuration. A part that is degraded does not keep a node from
//! being Ready: its pods have their network and their policies, and a condition says what they lack.

use std::path::Path;

use ipnet::IpNet;
use serde_json::json;
use sluice_core::model::Kind;

use super::{NO_UPLINK, NotReconciled, Reconciler, TABLES_EMPTY};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::paths::{CNI_BINARY_NAME, CNI_NETWORK};
use crate::state::State;

/// Version of the configuration for runtimes that do not read [`CNI_VERSIONS`].
const CNI_VERSION: &str = "1.0.0";

/// Versions of the configuration; libcni 1.2 and later uses the highest that it supports. 1.1.0 has
/// GC and STATUS, which answers without the agent.
const CNI_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// What has to be in the kernel before the configuration is written, as far as it can be.
const AFTER: [Concern; 6] = [
    Concern::Pins,
    Concern::HostState,
    Concern::Devices,
    Concern::SocketPrograms,
    Concern::ServiceMaps,
    Concern::NodeConfig,
];

/// Installs both files.
#[derive(Debug, Default)]
pub struct ReconcileCniFiles {
    /// Whether the binary was installed or found.
    binary: bool,
    /// The configuration that was written or found.
    config: String,
}

impl Reconciler for ReconcileCniFiles {
    fn concern(&self) -> Concern {
        Concern::CniFiles
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if !state.may_attach() {
            // ADD of this version uses programs that have not taken over.
            return Err(TABLES_EMPTY);
        }
        let installed = kernel.install_cni_binary()?;
        if installed {
            tracing::info!("CNI binary installed");
            state.set_cni_binary_installed();
        }
        if std::mem::replace(&mut self.binary, true) {
            state.repaired("cni_binary", usize::from(installed));
        }
        let subnet = subnet(state);
        // Named first: everything else waits for it.
        let is_missing = state.listed(Kind::Node) && state.this_node().is_none();
        let connects = state.policies_written() && !state.conditions.any_pending(&AFTER);
        if !is_missing && !connects {
            return Err(NotReconciled::Waiting("pods cannot be connected yet"));
        }
        let (subnet, mtu) = (subnet?, state.pod_mtu().ok_or(NO_UPLINK)?);
        let text = conflist(&subnet, mtu, &state.config().cni_state_dir, &state.config().chain);
        let written = kernel.write_cni_config(&text)?;
        state.set_configured_mtu(mtu);
        if std::mem::replace(&mut self.config, text.clone()) == text {
            state.repaired("cni_config", usize::from(written));
        }
        if written {
            tracing::info!(%subnet, mtu, "CNI configuration written");
        }
        state.set_ready();
        Ok(())
    }
}

/// The node's IPv4 pod CIDR.
fn subnet(state: &State) -> Result<IpNet, NotReconciled> {
    if let Some(subnet) = state.pod_cidrs().into_iter().find(|net| net.addr().is_ipv4()) {
        return Ok(subnet);
    }
    let reason = match state.this_node() {
        Some(_) => {
            "this Node has no IPv4 podCIDR: does the controller manager allocate them \
             (--allocate-node-cidrs)?"
        }
        None => "the API has no Node of this name",
    };
    Err(NotReconciled::Degraded(format!("Node {}: {reason}", state.config().node_name)))
}

/// The configuration for pods in `subnet`, with the plugins of `chain` after Sluice's.
fn conflist(subnet: &IpNet, mtu: u32, state_dir: &Path, chain: &[String]) -> String {
    let mut plugins = vec![json!({
        "type": CNI_BINARY_NAME,
        "subnet": subnet.to_string(),
        "mtu": mtu,
        "stateDir": state_dir,
        // A chained bandwidth plugin needs the ingress qdisc; given the rates, the CNI binary
        // leaves it free. hostPorts are served by Sluice itself.
        "capabilities": { "bandwidth": true, "portMappings": true },
    })];
    plugins.extend(
        chain.iter().map(|plugin| json!({ "type": plugin, "capabilities": { plugin: true } })),
    );
    let conf = json!({
        "cniVersion": CNI_VERSION,
        "cniVersions": CNI_VERSIONS,
        "name": CNI_NETWORK,
        "plugins": plugins,
    });
    format!("{conf:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflist_names_binary_subnet_and_mtu() {
        let subnet = "10.244.1.0/24".parse().unwrap();
        let text = conflist(&subnet, 1400, Path::new("/run/sluice/cni"), &[]);
        let v: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            v,
            json!({
                "cniVersion": "1.0.0",
                "cniVersions": ["1.0.0", "1.1.0"],
                "name": "sluice",
                "plugins": [{
                    "type": "sluice",
                    "subnet": "10.244.1.0/24",
                    "mtu": 1400,
                    "stateDir": "/run/sluice/cni",
                    "capabilities": {"bandwidth": true, "portMappings": true},
                }],
            })
        );
    }

    #[test]
    fn chained_plugins_follow_with_their_capability() {
        let subnet = "10.244.1.0/24".parse().unwrap();
        let text = conflist(&subnet, 1400, Path::new("/run/sluice/cni"), &["bandwidth".to_owned()]);
        let conf: serde_json::Value = serde_json::from_str(&text).unwrap();
        let types: Vec<_> = conf["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["sluice", "bandwidth"]);
        assert_eq!(conf["plugins"][1]["capabilities"], json!({"bandwidth": true}));
    }
}
