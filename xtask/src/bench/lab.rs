//! One cluster under measurement: two nodes, a client, a server beside it and one on the other node.

use super::report::{Load, Network};
use crate::cache::{Cache, checkout, target};
use crate::cluster::{self, Cluster, Cni, Proxy, UpOptions};
use crate::oci::{self, Image, Layer};
use crate::{artefacts, image, progress};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const IMAGE: &str = "localhost/netbench:dev";
const PORT: u16 = 7000;

/// A cluster with its servers, ready to be loaded.
pub struct Lab {
    /// Which network it runs.
    pub network: Network,
    cluster: Cluster,
    near: Target,
    far: Target,
}

struct Target {
    pod: String,
    service: String,
}

fn name(network: Network) -> &'static str {
    match network {
        Network::Sluice => "bench-sluice",
        Network::Iptables => "bench-iptables",
        Network::Nftables => "bench-nftables",
    }
}

/// Removes a cluster that [`Lab::up`] made.
pub fn down(cache: &Cache, network: Network) -> Result<()> {
    cluster::down(cache, name(network))
}

/// Builds the load generator and packs it as an image.
pub fn load_image(cache: &Cache) -> Result<PathBuf> {
    let program = artefacts::static_program(cache, "netbench", "netbench", "release")?;
    let room = target().join("image");
    fs::create_dir_all(&room)?;
    let layer_path = room.join("netbench-layer.tar");
    let mut layer = Layer::create(&layer_path)?;
    layer.program("netbench", &program)?;
    layer.finish()?;
    let path = room.join("netbench.tar");
    let entrypoint = vec!["/netbench".to_owned(), "server".to_owned()];
    oci::write(
        &[Image { names: vec![IMAGE.to_owned()], layers: vec![layer_path.clone()], entrypoint }],
        &path,
    )?;
    fs::remove_file(layer_path)?;
    Ok(path)
}

impl Lab {
    /// Makes the cluster and starts client and servers.
    pub fn up(cache: &Cache, network: Network, load: &Path) -> Result<Lab> {
        let (proxy, cni) = match network {
            Network::Sluice => (Proxy::None, Cni::None),
            Network::Iptables => (Proxy::Iptables, Cni::Bridge),
            Network::Nftables => (Proxy::Nftables, Cni::Bridge),
        };
        let cluster = cluster::up(cache, &UpOptions::new(name(network), 2, proxy, cni))?;
        cluster.load(cache, load)?;
        if network == Network::Sluice {
            cluster.load(cache, &image::archive(cache)?)?;
            cluster.kubectl(&["apply", "-k", &checkout().join("deploy").to_string_lossy()])?;
            cluster.wait_ready()?;
        }
        let mut nodes = cluster.nodes()?;
        nodes.sort_by_key(|node| node.contains("control-plane"));
        let [near_node, far_node] = nodes.as_slice() else {
            bail!("{} has {} nodes, not two", cluster.name, nodes.len());
        };
        let manifest = [("client", near_node), ("near", near_node), ("far", far_node)]
            .map(|(app, node)| manifest(app, node))
            .concat();
        let file = target().join("bench.yaml");
        fs::write(&file, manifest)?;
        cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
        progress::wait("the servers", Duration::from_secs(120), || {
            let ready = ["wait", "pod", "--all", "--for=condition=Ready", "--timeout=5s"];
            cluster.kubectl(&ready).map_err(|e| e.to_string())
        })?;
        let target = |app: &str| -> Result<Target> {
            let read = |kind: &str, path: &str| {
                cluster.kubectl(&["get", kind, app, "-o", &format!("jsonpath={{{path}}}")])
            };
            Ok(Target {
                pod: read("pod", ".status.podIP")?,
                service: read("service", ".spec.clusterIP")?,
            })
        };
        let (near, far) = (target("near")?, target("far")?);
        let lab = Lab { network, cluster, near, far };
        // The first answer through each Service shows that its proxy is done.
        for same_node in [true, false] {
            progress::wait("the Services", Duration::from_secs(60), || {
                lab.sample(Load::Connect, same_node, true, 0.1).map_err(|e| e.to_string())
            })?;
        }
        Ok(lab)
    }

    /// Operations, or bytes, a second.
    pub fn measure(
        &self,
        load: Load,
        same_node: bool,
        cluster_ip: bool,
        seconds: u32,
    ) -> Result<f64> {
        let first = self.sample(load, same_node, cluster_ip, f64::from(seconds));
        first.or_else(|error| {
            // Said, never hidden: a connection that fails under load is a finding too.
            println!(
                "  FAILED once: {}, {}, same node: {same_node}, ClusterIP: {cluster_ip}: {error:#}",
                self.network.label(),
                load.label()
            );
            self.sample(load, same_node, cluster_ip, f64::from(seconds))
        })
    }

    fn sample(&self, load: Load, same_node: bool, cluster_ip: bool, seconds: f64) -> Result<f64> {
        let side = if same_node { &self.near } else { &self.far };
        let address = if cluster_ip { &side.service } else { &side.pod };
        let text = self.cluster.kubectl(&[
            "exec",
            "client",
            "--",
            "/netbench",
            "client",
            "--mode",
            load.mode(),
            "--target",
            &format!("{address}:{PORT}"),
            "--seconds",
            &seconds.to_string(),
        ])?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("netbench said {text:?}"))?;
        report["per_second"].as_f64().with_context(|| format!("netbench said {text:?}"))
    }

    /// Resident memory of whoever programs Services, per node.
    pub fn memory(&self) -> Result<Vec<Value>> {
        let process = match self.network {
            Network::Sluice => "sluice",
            Network::Iptables | Network::Nftables => "kube-proxy",
        };
        let script = format!(
            "for p in $(pgrep -x {process}); do awk '/VmRSS/ {{print $2}}' /proc/$p/status; done"
        );
        let mut rows = Vec::new();
        for node in self.cluster.nodes()? {
            let text = self.cluster.on_node(&node, &["sh", "-c", &script])?;
            for kib in text.split_whitespace() {
                rows.push(json!({
                    "process": format!("{process} on {node}"),
                    "kib": kib.parse::<u64>().unwrap_or(0),
                }));
            }
        }
        Ok(rows)
    }
}

fn manifest(app: &str, node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {app}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  tolerations: [{{operator: Exists}}]
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: main, image: {IMAGE}, imagePullPolicy: Never}}
---
apiVersion: v1
kind: Service
metadata: {{name: {app}}}
spec:
  selector: {{app: {app}}}
  ports: [{{port: {PORT}}}]
---
"
    )
}

/// Times CNI ADD, ours against Debian's ptp + host-local, in namespaces of the run's own.
pub fn cni_adds(cache: &Cache) -> Result<Value> {
    crate::setup::tests()?;
    let object = artefacts::bpf_object(cache)?;
    let programs = artefacts::programs(cache)?;
    let bench = artefacts::static_program(cache, "netns-tests", "cni-add-bench", "release")?;
    let text = progress::output(
        Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .arg(bench)
            .env("SLUICE_CNI_BIN", programs.cni)
            .env("SLUICE_AGENT_BIN", programs.agent)
            .env("SLUICE_BPF_OBJECT", object),
    )?;
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("cni-add-bench said {line:?}"))
}
