//! One cluster under measurement: two nodes, a client, one server per node.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::report::{Load, Network, place};
use crate::cache::{Cache, target};
use crate::kind::{self, Cluster, Cni, Proxy, Spec};
use crate::oci::{self, Image, Layer};
use crate::process::{self, QUERY, STEP};
use crate::{build, image, install, progress};

/// Image of the load generator.
pub const IMAGE: &str = "localhost/netbench:dev";
/// Port of the servers and of their Services.
pub const PORT: u16 = 7000;
const PODS_READY: Duration = Duration::from_secs(120);
const REACHABLE: Duration = Duration::from_secs(60);
/// Duration of the measurement that checks whether a server answers.
const PROBE: Duration = Duration::from_millis(100);

/// Runs the load generator on a node, from the image of a pod that runs there.
const RUN_ON_NODE: &str = "exec /proc/$(pgrep -o -x netbench)/root/netbench \"$@\"";

/// A cluster with its client and servers.
pub struct BenchCluster {
    /// The network that it runs.
    pub network: Network,
    cluster: Cluster,
    /// The client's node.
    near_node: String,
    /// The other node.
    far_node: String,
    /// Server on the client's node.
    near: Target,
    /// Server on the other node.
    far: Target,
    /// The CPU of client and servers.
    cpu: String,
}

/// Addresses of a server.
pub struct Target {
    /// Of its pod.
    pub pod: String,
    /// Of its Service.
    pub cluster_ip: String,
}

/// Path from the client to a server.
#[derive(Clone, Copy)]
pub struct Path {
    /// Whether the server is on the client's node.
    pub same_node: bool,
    /// Whether the client connects to the ClusterIP instead of the pod's address.
    pub cluster_ip: bool,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = place(self.same_node);
        let address = if self.cluster_ip { "ClusterIP" } else { "pod address" };
        write!(f, "{place}, {address}")
    }
}

fn name(network: Network) -> &'static str {
    match network {
        Network::Sluice => "bench-sluice",
        Network::Iptables => "bench-iptables",
        Network::Nftables => "bench-nftables",
    }
}

/// Removes the cluster of a network.
///
/// # Errors
/// When kind fails.
pub fn down(cache: &Cache, network: Network) -> Result<()> {
    Cluster::down(cache, name(network))
}

/// Builds the load generator.
///
/// # Errors
/// When the build fails.
pub fn load_program(cache: &Cache) -> Result<PathBuf> {
    build::static_program(cache, "netbench", "netbench", "release")
}

/// Packs the load generator as an image and returns the archive.
///
/// # Errors
/// When the archive cannot be written.
pub fn load_image(program: &std::path::Path) -> Result<PathBuf> {
    let folder = target().join("image");
    fs::create_dir_all(&folder)?;
    let layer_path = folder.join("netbench-layer.tar");
    let mut layer = Layer::create(&layer_path)?;
    layer.program("netbench", program)?;
    layer.finish()?;
    let path = folder.join("netbench.tar");
    oci::write(&[Image::new(IMAGE, &[&layer_path], "/netbench server")], &path)?;
    fs::remove_file(layer_path)?;
    Ok(path)
}

impl BenchCluster {
    /// Creates the cluster and starts client and servers.
    ///
    /// Client and servers stay on one CPU: the scheduler's choice between one and two makes rates differ by
    /// half. A rate then says how much CPU time an operation takes.
    ///
    /// # Errors
    /// When the cluster does not start or its pods are not Ready in time.
    pub fn up(cache: &Cache, network: Network, load_image: &std::path::Path) -> Result<Self> {
        let (proxy, cni) = match network {
            Network::Sluice => (Proxy::None, Cni::None),
            Network::Iptables => (Proxy::Iptables, Cni::Bridge),
            Network::Nftables => (Proxy::Nftables, Cni::Bridge),
        };
        let spec = Spec { name: name(network).to_owned(), nodes: 2, proxy, cni };
        let cluster = kind::up(cache, &spec)?;
        cluster.load(cache, load_image)?;
        if network == Network::Sluice {
            install::sluice(cache, &cluster, &image::archive(cache)?)?;
        }
        let mut nodes = cluster.nodes()?;
        // The client is on the worker.
        nodes.sort_by_key(|node| node.contains("control-plane"));
        let [near_node, far_node] = nodes.as_slice() else {
            bail!("{} has {} nodes; expected 2", cluster.name, nodes.len());
        };
        let manifest = [("client", near_node), ("near", near_node), ("far", far_node)]
            .map(|(app, node)| manifest(app, node))
            .concat();
        let file = target().join("bench.yaml");
        fs::write(&file, manifest)?;
        cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
        progress::wait("client and servers", PODS_READY, || {
            let ready = ["wait", "pod", "--all", "--for=condition=Ready", "--timeout=5s"];
            cluster.kubectl(&ready).map_err(|e| e.to_string())
        })?;
        let (near, far) = (Target::read(&cluster, "near")?, Target::read(&cluster, "far")?);
        let (near_node, far_node) = (near_node.clone(), far_node.clone());
        let cpu = (std::thread::available_parallelism()?.get() - 1).to_string();
        let bench = Self { network, cluster, near_node, far_node, near, far, cpu };
        ["near", "far"].iter().try_for_each(|server| bench.pin(server))?;
        Ok(bench)
    }

    /// Keeps a server on the CPU of client and servers.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn pin(&self, server: &str) -> Result<()> {
        self.kubectl(&["exec", server, "--", "/netbench", "pin", "--cpu", &self.cpu]).map(drop)
    }

    /// The addresses of the server on the client's node, or of that on the other node.
    pub fn server(&self, same_node: bool) -> &Target {
        if same_node { &self.near } else { &self.far }
    }

    /// The name of the client's node, or of the other node.
    pub fn node(&self, of_client: bool) -> &str {
        if of_client { &self.near_node } else { &self.far_node }
    }

    /// Returns what kubectl prints.
    ///
    /// # Errors
    /// When kubectl fails or exceeds its deadline.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster.kubectl(words)
    }

    /// A command that runs where the cluster is reachable, with KUBECONFIG set.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.cluster.command(program)
    }

    /// Returns what a command prints inside a node.
    ///
    /// # Errors
    /// When the command fails or exceeds its deadline.
    pub fn on_node(&self, node: &str, words: &[&str]) -> Result<String> {
        self.cluster.on_node(node, words)
    }

    /// Returns what a command prints on the node of the control plane, with a file as its input.
    ///
    /// # Errors
    /// When the command fails or exceeds its deadline.
    pub fn on_control_plane(&self, words: &[&str], input: fs::File) -> Result<String> {
        let mut command = self.cluster.command("docker");
        command.args(["exec", "--interactive", &self.far_node]).args(words).stdin(input);
        // `output` would replace the input.
        process::output_within(&mut command, QUERY)
    }

    /// Creates the objects of a file, in minutes if the API server is slow.
    ///
    /// # Errors
    /// When kubectl fails or exceeds its deadline.
    pub fn create(&self, file: &std::path::Path) -> Result<()> {
        let mut command = self.cluster.command("kubectl");
        // Validation would fetch the schema, once per kubectl.
        command.args(["create", "--validate=false", "-o", "name", "-f"]).arg(file);
        process::output_within(command.stdin(Stdio::null()), STEP)?;
        Ok(())
    }

    /// Waits until every server answers through both of its addresses.
    ///
    /// # Errors
    /// When one does not answer within a minute.
    pub fn wait_reachable(&self) -> Result<()> {
        for same_node in [true, false] {
            for cluster_ip in [false, true] {
                let path = Path { same_node, cluster_ip };
                let name = format!("{}, {path}", self.network.label());
                progress::wait(&name, REACHABLE, || {
                    self.sample(Load::Connect, path, PROBE).map_err(|e| e.to_string())
                })?;
            }
        }
        Ok(())
    }

    /// Address and port of a path.
    pub fn target(&self, path: Path) -> String {
        let server = self.server(path.same_node);
        let address = if path.cluster_ip { &server.cluster_ip } else { &server.pod };
        format!("{address}:{PORT}")
    }

    /// Measures once: operations, or bytes, per second.
    ///
    /// # Errors
    /// When the client cannot connect or a connection breaks.
    pub fn sample(&self, load: Load, path: Path, duration: Duration) -> Result<f64> {
        self.sample_at(load, &self.target(path), duration)
    }

    /// As [`BenchCluster::sample`], to an address and port.
    ///
    /// # Errors
    /// When the client cannot connect or a connection breaks.
    pub fn sample_at(&self, load: Load, target: &str, duration: Duration) -> Result<f64> {
        let rates = self.samples_at(load, &[target.to_owned()], duration)?;
        rates.first().copied().context("a rate for the target")
    }

    /// Measures several addresses in turns of 20 ms, each for this time: what else the machine does affects all of
    /// them alike. Returns a rate for each.
    ///
    /// # Errors
    /// When the client cannot connect or a connection breaks.
    pub fn samples_at(
        &self,
        load: Load,
        targets: &[String],
        duration: Duration,
    ) -> Result<Vec<f64>> {
        let words = self.client(load, targets, duration);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        rates(&self.in_client(&words, QUERY)?, targets.len())
    }

    /// As [`BenchCluster::samples_at`], each address from another pod of the client's node, by its address.
    ///
    /// One process on the node enters the network namespaces of the pods in turn.
    ///
    /// # Errors
    /// As [`BenchCluster::samples_at`], or when a pod is not on the node.
    pub fn samples_from(
        &self,
        load: Load,
        pods: &[String],
        targets: &[String],
        duration: Duration,
    ) -> Result<Vec<f64>> {
        let client = [self.client(load, targets, duration), vec!["--from".into(), pods.join(",")]];
        let mut words = vec!["sh", "-c", RUN_ON_NODE, "sh"];
        words.extend(client.iter().flatten().map(String::as_str));
        rates(&parse(&self.on_node(&self.near_node, &words)?)?, targets.len())
    }

    /// Arguments of the load generator.
    fn client(&self, load: Load, targets: &[String], duration: Duration) -> Vec<String> {
        let (seconds, targets) = (duration.as_secs_f64().to_string(), targets.join(","));
        let mode = ["client", "--mode", load.mode(), "--targets", &targets];
        let place = ["--seconds", &seconds, "--cpu", &self.cpu];
        mode.into_iter().chain(place).map(str::to_owned).collect()
    }

    /// Runs the load generator in the client; returns the JSON that it prints.
    ///
    /// # Errors
    /// When it fails, exceeds its deadline or prints something else.
    pub fn in_client(&self, words: &[&str], deadline: Duration) -> Result<Value> {
        let mut command = self.cluster.command("kubectl");
        command.args(["exec", "client", "--", "/netbench"]).args(words).stdin(Stdio::null());
        parse(&process::output_within(&mut command, deadline)?)
    }

    /// Resident memory in KiB, per node, of the process that programs Services.
    ///
    /// # Errors
    /// When a command on a node fails.
    pub fn memory(&self) -> Result<Vec<(String, u64)>> {
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
                let kib = kib.parse().with_context(|| format!("unexpected VmRSS: {kib:?}"))?;
                rows.push((format!("{process} on {node}"), kib));
            }
        }
        Ok(rows)
    }
}

/// What the load generator prints.
fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("unexpected output of netbench: {text:?}"))
}

/// The rate of each of so many targets.
fn rates(report: &Value, targets: usize) -> Result<Vec<f64>> {
    let reports = report.as_array().map_or(&[][..], Vec::as_slice);
    let rates: Vec<f64> = reports.iter().filter_map(|r| r["per_second"].as_f64()).collect();
    ensure!(rates.len() == targets, "unexpected report of netbench: {report}");
    Ok(rates)
}

impl Target {
    fn read(cluster: &Cluster, app: &str) -> Result<Self> {
        let read = |kind: &str, path: &str| {
            cluster.kubectl(&["get", kind, app, "-o", &format!("jsonpath={{{path}}}")])
        };
        Ok(Self {
            pod: read("pod", ".status.podIP")?,
            cluster_ip: read("service", ".spec.clusterIP")?,
        })
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
