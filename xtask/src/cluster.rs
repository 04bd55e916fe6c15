//! `cargo xtask cluster`: kind clusters, on whatever engine there is.
//!
//! In: deploy/kind/cluster.yaml, which is also what users take, and a node image. Out: a running
//! cluster and its KUBECONFIG in the cache. What only our own node image needs (a machine with
//! cgroup v1 and few rights) is added to the configuration here and nowhere else.

use crate::cache::{Cache, checkout};
use crate::engine::Engine;
use crate::node_image::{self, NodeImage};
use crate::{progress, rival, setup};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

/// The cluster's name where none is given; kind's context is then `kind-sluice`.
pub const NAME: &str = "sluice";
const READY: Duration = Duration::from_secs(180);

/// What `cargo xtask cluster` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Make a cluster: without CNI and kube-proxy, or with those to measure against
    Up(UpOptions),
    /// Remove a cluster, and the engine when it is ours and nothing is left on it
    Down(Which),
    /// Load an image archive into every node
    Load {
        /// OCI or Docker archive, as `cargo xtask image` writes it
        archive: PathBuf,
        #[command(flatten)]
        which: Which,
    },
    /// Show engine, nodes and pods
    Status(Which),
}

/// Which cluster.
#[derive(Args, Clone)]
pub struct Which {
    /// Name of the cluster
    #[arg(long, default_value = NAME)]
    pub name: String,
}

/// How the cluster is to be.
#[derive(Args, Clone)]
pub struct UpOptions {
    #[command(flatten)]
    which: Which,
    /// Nodes, the control plane among them
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// kube-proxy's mode
    #[arg(long, value_enum, default_value_t = Proxy::None)]
    proxy: Proxy,
    /// Network plugin to install
    #[arg(long, value_enum, default_value_t = Cni::None)]
    cni: Cni,
}

impl UpOptions {
    /// What the command line would say.
    pub fn new(name: &str, nodes: usize, proxy: Proxy, cni: Cni) -> Self {
        Self { which: Which { name: name.to_owned() }, nodes, proxy, cni }
    }
}

/// Who translates Services.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// Nobody, or Sluice.
    None,
    /// kube-proxy with iptables.
    Iptables,
    /// kube-proxy with nftables.
    Nftables,
}

/// Who wires pods.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cni {
    /// Nobody, or Sluice.
    None,
    /// The plain bridge plugin with host-local addresses and routes between the nodes.
    Bridge,
}

/// A running cluster.
pub struct Cluster {
    /// Its engine.
    pub engine: Engine,
    /// Its name.
    pub name: String,
    /// The file that kubectl reads.
    pub kubeconfig: PathBuf,
}

/// Runs one of the commands.
pub fn run(cache: &Cache, command: Command) -> Result<()> {
    setup::require_root()?;
    match command {
        Command::Up(options) => {
            let cluster = up(cache, &options)?;
            let wrapper = cluster.wrapper(cache)?;
            println!("\n  KUBECONFIG={}", cluster.kubeconfig.display());
            println!("  {} kubectl get pods -A -o wide", wrapper.display());
        }
        Command::Down(which) => down(cache, &which.name)?,
        Command::Load { archive, which } => find(cache, &which.name)?.load(cache, &archive)?,
        Command::Status(which) => status(cache, &which.name)?,
    }
    Ok(())
}

/// Makes the cluster, or finds the one of that name.
pub fn up(cache: &Cache, options: &UpOptions) -> Result<Cluster> {
    setup::cluster(cache)?;
    let engine = Engine::start(cache)?;
    let kubeconfig = cache.room("kube")?.join(format!("{}.kubeconfig", options.which.name));
    let cluster = Cluster { engine, name: options.which.name.clone(), kubeconfig };
    if cluster.exists()? {
        println!("  the cluster {} is there already", cluster.name);
        return Ok(cluster);
    }
    let image = node_image::ensure(cache, &cluster.engine)?;
    let text = fs::read_to_string(checkout().join("deploy/kind/cluster.yaml"))?;
    let config = cache.room("kube")?.join(format!("{}.kind.yaml", cluster.name));
    fs::write(&config, configuration(&text, options, &image)?)?;
    let created = progress::run(
        "creating the cluster",
        cluster
            .engine
            .command("kind")
            .args(["create", "cluster", "--name", &cluster.name, "--image", &image.name])
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(&cluster.kubeconfig),
        &cache.logs(),
    );
    if created.is_err() {
        // kind keeps nothing of a cluster that failed, unless it was cut short.
        let _ = cluster.delete(cache);
    }
    created?;
    ensure_kubectl(cache, &cluster)?;
    if options.cni == Cni::Bridge {
        progress::step("bridge CNI on every node", || {
            rival::install_bridge(&cluster)?;
            Ok(((), "written".to_owned()))
        })?;
        cluster.wait_ready()?;
    }
    Ok(cluster)
}

/// kind's configuration for what was asked, from the one that users take.
fn configuration(base: &str, options: &UpOptions, image: &NodeImage) -> Result<String> {
    let (head, _) =
        base.split_once("nodes:\n").context("deploy/kind/cluster.yaml has no line `nodes:`")?;
    let mode = match options.proxy {
        Proxy::None => "none",
        Proxy::Iptables => "iptables",
        Proxy::Nftables => "nftables",
    };
    let mut text = head.replace("kubeProxyMode: none", &format!("kubeProxyMode: {mode}"));
    if image.built {
        text.push_str(
            "kubeadmConfigPatches:\n  - |\n    kind: KubeletConfiguration\n    failCgroupV1: false\n    \
             failSwapOn: false\n    oomScoreAdj: 0\n    localStorageCapacityIsolation: false\n  - |\n    \
             kind: KubeProxyConfiguration\n    oomScoreAdj: 0\n    conntrack:\n      maxPerCore: 0\n      \
             tcpEstablishedTimeout: 0s\n      tcpCloseWaitTimeout: 0s\n",
        );
    }
    text.push_str("nodes:\n  - role: control-plane\n");
    for _ in 1..options.nodes {
        text.push_str("  - role: worker\n");
    }
    Ok(text)
}

/// Takes kubectl out of a node where the machine has none.
fn ensure_kubectl(cache: &Cache, cluster: &Cluster) -> Result<()> {
    let kubectl = cache.room("bin")?.join("kubectl");
    if setup::on_path("kubectl") || kubectl.exists() {
        return Ok(());
    }
    let from = format!("{}-control-plane:/usr/bin/kubectl", cluster.name);
    let mut copy = cluster.engine.command("docker");
    progress::output(copy.args(["cp", "--follow-link", &from]).arg(&kubectl))?;
    Ok(())
}

/// The running cluster called `name`.
pub fn find(cache: &Cache, name: &str) -> Result<Cluster> {
    let engine =
        Engine::find(cache)?.context("no engine runs; `cargo xtask cluster up` starts one")?;
    let kubeconfig = cache.room("kube")?.join(format!("{name}.kubeconfig"));
    let cluster = Cluster { engine, name: name.to_owned(), kubeconfig };
    if !cluster.exists()? {
        bail!("there is no cluster called {name}; `cargo xtask cluster up` makes one");
    }
    Ok(cluster)
}

/// Removes the cluster, and our engine when no other cluster is on it.
pub fn down(cache: &Cache, name: &str) -> Result<()> {
    let Some(engine) = Engine::find(cache)? else {
        println!("  nothing runs");
        return Ok(());
    };
    let kubeconfig = cache.room("kube")?.join(format!("{name}.kubeconfig"));
    let cluster = Cluster { engine, name: name.to_owned(), kubeconfig };
    cluster.delete(cache)?;
    let left = cluster.kind(&["get", "clusters", "--quiet"])?;
    if left.is_empty() && cluster.engine.is_ours() {
        let began = Instant::now();
        cluster.engine.stop(cache)?;
        progress::line("container engine", "stopped", began.elapsed());
    }
    Ok(())
}

fn status(cache: &Cache, name: &str) -> Result<()> {
    let Some(engine) = Engine::find(cache)? else {
        println!("engine: none runs");
        return Ok(());
    };
    println!(
        "engine: {}",
        if engine.is_ours() { "our own dockerd" } else { "the machine's Docker" }
    );
    drop(engine);
    let cluster = find(cache, name)?;
    println!("KUBECONFIG={}\n", cluster.kubeconfig.display());
    println!("{}\n", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("{}", cluster.kubectl(&["get", "pods", "-A", "-o", "wide"])?);
    Ok(())
}

fn wrapper_name(cluster: &str) -> String {
    if cluster == NAME { "in-cluster".to_owned() } else { format!("in-cluster-{cluster}") }
}

impl Cluster {
    /// The script that runs a command where this cluster is reachable: `in-cluster`, with the
    /// name behind it where it is not the usual one.
    pub fn wrapper(&self, cache: &Cache) -> Result<PathBuf> {
        self.engine.write_wrapper(cache, &wrapper_name(&self.name), &self.kubeconfig)
    }

    /// A kubectl command against this cluster.
    pub fn kubectl_command(&self) -> Process {
        let mut command = self.engine.command("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// What kubectl answers.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        progress::output(self.kubectl_command().args(words))
    }

    /// What a command prints inside a node.
    pub fn on_node(&self, node: &str, words: &[&str]) -> Result<String> {
        progress::output(self.engine.command("docker").args(["exec", node]).args(words))
    }

    /// Names of the nodes' containers, which are the nodes' names.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let names = self.kind(&["get", "nodes", "--name", &self.name])?;
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until every node is Ready.
    pub fn wait_ready(&self) -> Result<()> {
        progress::step("nodes Ready", || {
            let condition =
                "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
            progress::wait("the nodes", READY, || {
                let states = self
                    .kubectl(&["get", "nodes", "-o", condition])
                    .map_err(|error| error.to_string())?;
                let total = states.split_whitespace().count();
                let ready = states.split_whitespace().filter(|state| *state == "True").count();
                if ready == total && total > 0 {
                    Ok(((), format!("{ready} of {total}")))
                } else {
                    Err(format!("{ready} of {total} are Ready"))
                }
            })
        })
    }

    /// Loads an image archive into every node.
    pub fn load(&self, cache: &Cache, archive: &Path) -> Result<()> {
        let archive = archive
            .canonicalize()
            .with_context(|| format!("there is no archive {}", archive.display()))?;
        progress::run(
            "loading the image into the nodes",
            self.engine
                .command("kind")
                .args(["load", "image-archive", "--name", &self.name])
                .arg(archive),
            &cache.logs(),
        )
    }

    fn kind(&self, words: &[&str]) -> Result<String> {
        progress::output(self.engine.command("kind").args(words))
    }

    fn exists(&self) -> Result<bool> {
        Ok(self.kind(&["get", "clusters", "--quiet"])?.lines().any(|name| name == self.name))
    }

    fn delete(&self, cache: &Cache) -> Result<()> {
        progress::run(
            "removing the cluster",
            self.engine
                .command("kind")
                .args(["delete", "cluster", "--name", &self.name, "--kubeconfig"])
                .arg(&self.kubeconfig),
            &cache.logs(),
        )?;
        let _ = fs::remove_file(&self.kubeconfig);
        let _ = fs::remove_file(cache.room("bin")?.join(wrapper_name(&self.name)));
        Ok(())
    }
}
