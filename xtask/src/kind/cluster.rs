//! One kind cluster on an [`Engine`].
//!
//! Input: deploy/kind/cluster.yaml, which is the file that users apply, and a node image. Output:
//! a running cluster, and its KUBECONFIG in the cache. Settings that only our own node image
//! needs (cgroup v1, missing capabilities) are added to the configuration here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::engine::Engine;
use super::node_image::{self, NodeImage};
use super::{Cni, Proxy, space};
use crate::cache::{Cache, checkout};
use crate::process::{self, STEP};
use crate::{progress, setup};

/// Name of the cluster that commands use by default; kind's context is `kind-sluice`.
const DEFAULT_NAME: &str = "sluice";

const READY: Duration = Duration::from_secs(180);

/// kubeadm patches for our own node image.
const PATCHES: &str = "\
kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
    failSwapOn: false
    oomScoreAdj: 0
    localStorageCapacityIsolation: false
  - |
    kind: KubeProxyConfiguration
    oomScoreAdj: 0
    conntrack:
      maxPerCore: 0
      tcpEstablishedTimeout: 0s
      tcpCloseWaitTimeout: 0s
";

/// What a cluster consists of.
#[derive(Clone)]
pub struct Spec {
    /// Name of the cluster.
    pub name: String,
    /// Number of nodes, including the control plane.
    pub nodes: usize,
    /// kube-proxy, or none.
    pub proxy: Proxy,
    /// CNI plugin, or none.
    pub cni: Cni,
}

impl Spec {
    /// The cluster that Sluice is installed on: three nodes, no kube-proxy, no CNI plugin.
    pub fn for_sluice() -> Self {
        Self { name: DEFAULT_NAME.to_owned(), nodes: 3, proxy: Proxy::None, cni: Cni::None }
    }
}

/// A running cluster.
pub struct Cluster {
    /// The engine that runs its nodes.
    pub engine: Engine,
    /// Its name.
    pub name: String,
    /// The file for kubectl.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster called `name`, which may not exist.
    pub(super) fn handle(cache: &Cache, engine: Engine, name: &str) -> Result<Self> {
        let kubeconfig = cache.folder("kube")?.join(format!("{name}.kubeconfig"));
        Ok(Self { engine, name: name.to_owned(), kubeconfig })
    }

    /// Returns the running cluster called `name`.
    ///
    /// # Errors
    /// When no engine answers or the cluster does not exist.
    pub fn find(cache: &Cache, name: &str) -> Result<Self> {
        let engine =
            Engine::find(cache)?.context("no engine is running; see `cargo xtask cluster up`")?;
        let cluster = Self::handle(cache, engine, name)?;
        if !cluster.exists()? {
            bail!("cluster {name} does not exist; see `cargo xtask cluster up`");
        }
        Ok(cluster)
    }

    /// Creates the cluster. Its nodes are not Ready before a CNI plugin is configured.
    ///
    /// # Errors
    /// When the node image cannot be made, space is short or kind fails; a cluster that failed is removed.
    pub(super) fn create(&self, cache: &Cache, spec: &Spec) -> Result<()> {
        let image = node_image::ensure(cache, &self.engine)?;
        space::require(&self.engine, spec.nodes)?;
        let base = fs::read_to_string(checkout().join("deploy/kind/cluster.yaml"))?;
        let config = cache.folder("kube")?.join(format!("{}.kind.yaml", self.name));
        fs::write(&config, configuration(&base, spec, &image)?)?;
        let created = process::run(
            "creating the cluster",
            self.engine
                .command("kind")
                .args(["create", "cluster", "--name", &self.name, "--image", &image.name])
                .arg("--config")
                .arg(&config)
                .arg("--kubeconfig")
                .arg(&self.kubeconfig),
            &cache.logs(),
            STEP,
        );
        if created.is_err() {
            // kind removes a cluster that failed, but not after it was killed.
            let _ = self.delete(cache);
        }
        created?;
        self.ensure_kubectl(cache)
    }

    /// Removes the cluster called `name`, and our own engine when no other cluster is left.
    ///
    /// # Errors
    /// When kind or the engine fails.
    pub fn down(cache: &Cache, name: &str) -> Result<()> {
        let Some(engine) = Engine::find(cache)? else {
            println!("  no engine is running");
            return Ok(());
        };
        let cluster = Self::handle(cache, engine, name)?;
        cluster.delete(cache)?;
        let remaining = cluster.kind(&["get", "clusters", "--quiet"])?;
        if remaining.is_empty() && cluster.engine.is_ours() {
            let start = Instant::now();
            cluster.engine.stop(cache)?;
            progress::line("container engine", "stopped", start.elapsed());
        }
        Ok(())
    }

    /// Writes the script that runs a command where this cluster is reachable and returns its
    /// path: `in-cluster`, followed by the cluster's name unless that is the default.
    ///
    /// # Errors
    /// When the script cannot be written.
    pub fn wrapper(&self, cache: &Cache) -> Result<PathBuf> {
        self.engine.write_wrapper(cache, &wrapper_name(&self.name), &self.kubeconfig)
    }

    /// Returns what kubectl prints.
    ///
    /// # Errors
    /// When kubectl fails or exceeds its deadline.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut command = self.engine.command("kubectl");
        process::output(command.env("KUBECONFIG", &self.kubeconfig).args(words))
    }

    /// Returns what a command prints inside a node.
    ///
    /// # Errors
    /// When the command fails or exceeds its deadline.
    pub fn on_node(&self, node: &str, words: &[&str]) -> Result<String> {
        process::output(self.engine.command("docker").args(["exec", node]).args(words))
    }

    /// Names of the nodes, which are also the names of their containers, sorted.
    ///
    /// # Errors
    /// When kind fails.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let names = self.kind(&["get", "nodes", "--name", &self.name])?;
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until every node is Ready.
    ///
    /// # Errors
    /// When a node is not Ready after three minutes.
    pub fn wait_ready(&self) -> Result<()> {
        let template =
            "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
        progress::step("nodes Ready", || {
            progress::wait("nodes", READY, || {
                let states = self
                    .kubectl(&["get", "nodes", "-o", template])
                    .map_err(|error| error.to_string())?;
                let total = states.split_whitespace().count();
                let ready = states.split_whitespace().filter(|state| *state == "True").count();
                let result = format!("{ready} of {total}");
                if ready == total && total > 0 { Ok(((), result)) } else { Err(result) }
            })
        })
    }

    /// Loads an image archive into every node.
    ///
    /// # Errors
    /// When the archive does not exist or kind fails.
    pub fn load(&self, cache: &Cache, archive: &Path) -> Result<()> {
        let archive = archive
            .canonicalize()
            .with_context(|| format!("no archive at {}", archive.display()))?;
        process::run(
            "loading the image into the nodes",
            self.engine
                .command("kind")
                .args(["load", "image-archive", "--name", &self.name])
                .arg(archive),
            &cache.logs(),
            STEP,
        )
    }

    /// A command that runs where the cluster is reachable, with KUBECONFIG set.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.engine.command(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Copies kubectl from a node into the cache if the machine has none.
    fn ensure_kubectl(&self, cache: &Cache) -> Result<()> {
        let kubectl = cache.folder("bin")?.join("kubectl");
        if setup::on_path("kubectl") || kubectl.exists() {
            return Ok(());
        }
        let from = format!("{}-control-plane:/usr/bin/kubectl", self.name);
        let mut copy = self.engine.command("docker");
        process::output(copy.args(["cp", "--follow-link", &from]).arg(&kubectl))?;
        Ok(())
    }

    fn kind(&self, words: &[&str]) -> Result<String> {
        process::output(self.engine.command("kind").args(words))
    }

    pub(super) fn exists(&self) -> Result<bool> {
        Ok(self.kind(&["get", "clusters", "--quiet"])?.lines().any(|name| name == self.name))
    }

    fn delete(&self, cache: &Cache) -> Result<()> {
        process::run(
            "removing the cluster",
            self.engine
                .command("kind")
                .args(["delete", "cluster", "--name", &self.name, "--kubeconfig"])
                .arg(&self.kubeconfig),
            &cache.logs(),
            STEP,
        )?;
        let _ = fs::remove_file(&self.kubeconfig);
        let _ = fs::remove_file(cache.folder("bin")?.join(wrapper_name(&self.name)));
        Ok(())
    }
}

fn wrapper_name(cluster: &str) -> String {
    if cluster == DEFAULT_NAME { "in-cluster".to_owned() } else { format!("in-cluster-{cluster}") }
}

/// kind's configuration for `spec`, based on the one for users.
fn configuration(base: &str, spec: &Spec, image: &NodeImage) -> Result<String> {
    let (head, _) =
        base.split_once("nodes:\n").context("deploy/kind/cluster.yaml has no line `nodes:`")?;
    let mode = match spec.proxy {
        Proxy::None => "none",
        Proxy::Iptables => "iptables",
        Proxy::Nftables => "nftables",
    };
    let mut text = head.replace("kubeProxyMode: none", &format!("kubeProxyMode: {mode}"));
    if image.built {
        text.push_str(PATCHES);
    }
    text.push_str("nodes:\n  - role: control-plane\n");
    for _ in 1..spec.nodes {
        text.push_str("  - role: worker\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_has_the_nodes_and_the_proxy_of_the_specification() {
        let base = "networking:\n  kubeProxyMode: none\nnodes:\n  - role: control-plane\n";
        let spec = Spec { nodes: 2, proxy: Proxy::Nftables, ..Spec::for_sluice() };
        let image = |built| NodeImage { name: "node".to_owned(), built };
        let published = configuration(base, &spec, &image(false)).expect("valid");
        assert_eq!(
            published,
            "networking:\n  kubeProxyMode: nftables\nnodes:\n  - role: control-plane\n  - role: worker\n"
        );
        let built = configuration(base, &spec, &image(true)).expect("valid");
        assert_eq!(built, published.replace("nodes:", &format!("{PATCHES}nodes:")));
        assert!(configuration("networking:\n", &spec, &image(false)).is_err());
    }
}
