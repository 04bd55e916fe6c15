//! What pods need of their node: rows, programs, leases, the CNI files.

use super::{Node, Subject, chain};
use crate::{cni_files, endpoints, pod_mtu};

impl Node {
    pub(super) fn repair_pods(&mut self) {
        let result = endpoints::repair(&self.config.cni_state_dir, &self.parts.maps);
        if let Ok(done) = &result
            && (done.rows_written, done.rows_removed, done.attached) != (0, 0, 0)
        {
            tracing::info!(
                pods = done.pods,
                rows_written = done.rows_written,
                rows_removed = done.rows_removed,
                attached = done.attached,
                "pods repaired"
            );
        }
        self.outcome(Subject::Pods, result.map(drop).map_err(|e| chain(&e)));
    }

    /// Lets pods that run follow the uplink's MTU.
    pub(super) fn follow_mtu(&mut self) {
        let Some((old, new)) = self.mtu_moved.take() else { return };
        match pod_mtu::change(&self.config.cni_state_dir, old, new) {
            Ok(pods) => tracing::info!(old, new, pods, "MTU changed"),
            Err(e) => tracing::warn!(error = %format!("{e:#}"), "pods keep their MTU of {old}"),
        }
    }

    pub(super) fn reclaim_leases(&mut self) {
        let result = endpoints::reclaim(&self.config.cni_state_dir);
        match &result {
            Ok(freed) => {
                for owner in freed {
                    tracing::info!(pod = %owner, "lease of a vanished sandbox reclaimed");
                }
            }
            Err(e) => tracing::warn!(error = %format!("{e:#}"), "leases not reclaimed"),
        }
        self.outcome(Subject::Leases, result.map(drop).map_err(|e| format!("{e:#}")));
    }

    /// The CNI binary at any time, the configuration only once pods can really be wired.
    pub(super) fn write_files(&mut self) {
        let mut result = Ok(());
        if let Some(dir) = &self.config.cni_bin_dir
            && (self.todo.files || !self.parts.health.ready())
        {
            match cni_files::install_binary(&self.config.cni_binary, dir) {
                Ok(true) => tracing::info!(dir = %dir.display(), "CNI binary installed"),
                Ok(false) => {}
                Err(e) => result = Err(chain(&e)),
            }
        }
        let works = self.tables_written
            && self.uplink.is_some()
            && result.is_ok()
            && !self
                .problems
                .keys()
                .any(|s| matches!(s, Subject::Tables | Subject::Network | Subject::Configuration));
        let subnet = self.pod_cidrs().into_iter().find(|net| net.addr().is_ipv4());
        match (works, subnet, self.mtu()) {
            (true, Some(subnet), Some(mtu)) => {
                if let Some(dir) = &self.config.cni_conf_dir {
                    let text = cni_files::conf(&subnet, mtu, &self.config.cni_state_dir);
                    match cni_files::write_conf(dir, &text) {
                        Ok(true) => {
                            tracing::info!(dir = %dir.display(), %subnet, mtu, "CNI configuration written");
                            for other in cni_files::preferred_to_ours(dir) {
                                tracing::warn!(file = %other, "another CNI configuration comes first: the runtime will not use Sluice");
                            }
                        }
                        Ok(false) => {}
                        Err(e) => result = Err(chain(&e)),
                    }
                }
                if result.is_ok() && !self.parts.health.ready() {
                    self.parts.health.set_ready(true);
                    tracing::info!("ready: pods can be wired");
                }
            }
            (true, None, _) => {
                let why = match self.index.this_node() {
                    Some(_) => {
                        "this Node has no IPv4 podCIDR: does the controller manager allocate them (--allocate-node-cidrs)?"
                    }
                    None => "there is no Node of this name in the API",
                };
                result = Err(format!("{}: {why}", self.config.node_name));
            }
            _ => {}
        }
        self.outcome(Subject::Files, result);
    }
}
