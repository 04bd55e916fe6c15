//! Flags and environment -> a validated [`Config`]. No other module reads the environment.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use hyper::http::Uri;
use ipnet::IpNet;
use sluice_abi::map;
use sluice_core::model::{NodePortAddresses, parse_cidr};

use crate::devices::DeviceChoice;
use crate::devices::xdp::XdpChoice;
use crate::host::UplinkChoice;
use crate::paths;
use crate::source_ports::{SourcePorts, SourcePortsError};

/// Valid MTUs in bytes: the smallest datagram that every IPv4 host accepts, the largest packet.
const MTUS: RangeInclusive<u32> = 576..=65_535;

/// Seconds between the replacement of the CNI binary or the programs and the removal of the former pins. An ADD
/// that began before has ended by then, or fails because it no longer finds the pins; the runtime then repeats
/// it.
const STALE_PIN_GRACE_SECONDS: u32 = 10;

/// Flags of `sluice agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Name of this node's Node object.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Read objects from the YAML manifests in this directory instead of the API server, and watch
    /// it for changes.
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Kubeconfig for the API server (default: the service account of the pod).
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, as URL (default: the one in `--kubeconfig` or `--kubelet-conf`, else
    /// the ClusterIP, which requires another proxy).
    #[arg(long, value_name = "URL", conflicts_with = "source")]
    pub api_server: Option<String>,
    /// Kubeconfig of kubelet; only the address of the API server is read.
    #[arg(long, value_name = "FILE", default_value = paths::KUBELET_CONF)]
    pub kubelet_conf: PathBuf,
    /// Directory to install the CNI binary in, as `sluice`; empty disables the installation.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_BIN_DIR, value_parser = may_be_empty())]
    pub cni_bin_dir: PathBuf,
    /// Directory to write the CNI configuration to; empty disables it.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_CONF_DIR, value_parser = may_be_empty())]
    pub cni_conf_dir: PathBuf,
    /// CNI binary to install.
    #[arg(long, value_name = "FILE", default_value = paths::CNI_BINARY)]
    pub cni_binary: PathBuf,
    /// Directory of the leases that the CNI binary writes.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_STATE_DIR)]
    pub cni_state_dir: PathBuf,
    /// CNI plugin to run after Sluice's; `bandwidth` limits what the node's stack sends to a pod.
    /// Its binary must be in the directory of CNI binaries. May be repeated.
    #[arg(long, value_name = "PLUGIN", value_parser = ["bandwidth"])]
    pub chain: Vec<String>,
    /// Root of the cgroup v2 hierarchy (default: detected).
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Device that connects to the other nodes (default: the device with the node's InternalIP,
    /// else the device of the default route).
    #[arg(long, value_name = "DEVICE")]
    pub uplink: Option<String>,
    /// Comma-separated names of the devices that get programs, besides the uplink; `*` matches any
    /// text (default: devices with routes to networks). Packets of pods that leave by another device
    /// keep the pod's address.
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    pub devices: Vec<String>,
    /// XDP on the devices with programs: `auto`, in the driver where it can, not on veth devices;
    /// `native`, on these too, whose peers must have XDP programs; `generic`, in the kernel's receive
    /// path; `off`.
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub xdp: XdpChoice,
    /// MTU of pods in bytes (default: the MTU of the uplink).
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Service CIDRs of the cluster, separated by commas, besides those of ServiceCIDR objects, which
    /// API servers have from Kubernetes 1.33. Packets to an unused address in them are dropped.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidrs: Vec<IpNet>,
    /// Comma-separated CIDRs of the addresses of this node that serve NodePorts, or `primary` for its
    /// first InternalIP of each family (default: every address, and for processes of the node
    /// 127.0.0.0/8, which a CIDR has to overlap with otherwise).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Serve `externalIPs` of Services. A user who can create Services can intercept traffic to any
    /// address with them (CVE-2020-8554).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub external_ips: bool,
    /// Pods to watch: of all nodes, or of this node only, which saves memory and traffic in very large
    /// clusters. Endpoints of other Pods follow their EndpointSlices alone, which are later.
    #[arg(long, value_name = "SCOPE", value_enum, default_value_t)]
    pub watch_pods: WatchedPods,
    /// Write an Event on a Service, EndpointSlice, Pod or policy that cannot be programmed as requested;
    /// otherwise the log alone names it.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub events: bool,
    /// Masquerade: translate the source of packets that leave the cluster to the node's address.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub masquerade: bool,
    /// Source ports for masquerading, as up to four ranges, separated by commas (default: all from
    /// 1024 except NodePorts). The node's ephemeral ports (net.ipv4.ip_local_port_range) are never
    /// used.
    #[arg(long, value_name = "FIRST-LAST")]
    pub snat_ports: Option<String>,
    /// Capacity of the table of flows. A translated flow takes two entries. A start with another
    /// value keeps the flows.
    #[arg(long, value_name = "ENTRIES", default_value_t = map::FLOWS_MAX, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub flows: u32,
    /// Limit of the entries that one pod's open flows take in the table of flows (default: half of
    /// its capacity). Flows beyond it work, and can be evicted.
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(2..))]
    pub flows_per_pod: Option<u32>,
    /// Upper bound of the initial capacity of each map that grows, for tests of the growth;
    /// the first lists of a node without maps can need more.
    #[arg(long, value_name = "ENTRIES", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub initial_capacity: Option<u32>,
    /// Seconds to keep the former pins after an upgrade, for CNI ADDs that still run; for tests.
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = STALE_PIN_GRACE_SECONDS)]
    pub stale_pin_grace_period: u32,
    /// Address and port of /metrics; empty disables it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_bind: String,
    /// Address and port of /healthz, /livez and /readyz; empty disables them.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10256")]
    pub health_bind: String,
    /// Unix socket of the API that the other commands use.
    #[arg(long, value_name = "FILE", default_value = paths::SOCKET)]
    pub socket: PathBuf,
}

/// Pods that are watched.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchedPods {
    /// Those of all nodes.
    #[default]
    All,
    /// Those of this node.
    Node,
}

/// Source of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML manifests.
    Folder(PathBuf),
    /// The API server.
    Api(ApiAccess),
}

/// Where address and credentials of the API server come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAccess {
    /// Kubeconfig given by flag.
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig of kubelet, for the address only.
    pub kubelet_conf: PathBuf,
    /// Address given by flag.
    pub server: Option<Uri>,
}

/// Validated configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Source of objects.
    pub source: Source,
    /// Directory to install the CNI binary in, if enabled.
    pub cni_bin_dir: Option<PathBuf>,
    /// Directory to write the CNI configuration to, if enabled.
    pub cni_conf_dir: Option<PathBuf>,
    /// CNI binary to install.
    pub cni_binary: PathBuf,
    /// Directory of the leases that the CNI binary writes.
    pub cni_state_dir: PathBuf,
    /// CNI plugins to run after Sluice's.
    pub chain: Vec<String>,
    /// Root of the cgroup v2 hierarchy, if given.
    pub cgroup_root: Option<PathBuf>,
    /// How the uplink is chosen.
    pub uplink: UplinkChoice,
    /// How the other devices with programs are chosen.
    pub devices: DeviceChoice,
    /// Use of XDP.
    pub xdp: XdpChoice,
    /// MTU of pods in bytes, if given.
    pub mtu: Option<u32>,
    /// Service CIDRs of the cluster, if given.
    pub service_cidrs: Vec<IpNet>,
    /// The addresses of this node that serve NodePorts.
    pub node_ports: NodePortAddresses,
    /// Whether external IPs of Services are served.
    pub external_ips: bool,
    /// Pods that are watched.
    pub watch_pods: WatchedPods,
    /// Whether Events on objects are written.
    pub events: bool,
    /// Whether packets that leave the cluster are masqueraded.
    pub masquerade: bool,
    /// First and last source port for masquerading.
    pub snat_ports: SourcePorts,
    /// Capacity of `FLOWS`.
    pub flows: u32,
    /// Limit of entries in `FLOWS` per pod.
    pub flows_per_pod: u32,
    /// Limit of entries in `FLOWS` of all flows without a pod of this node, except TCP: half of its capacity.
    pub flows_without_pod: u32,
    /// Upper bound of the initial capacities of maps that grow, if given.
    pub initial_capacity: Option<u32>,
    /// How long former pins are kept after an upgrade.
    pub stale_pin_grace_period: Duration,
    /// Address of /metrics, if enabled.
    pub metrics_bind: Option<SocketAddr>,
    /// Address of the health endpoints, if enabled.
    pub health_bind: Option<SocketAddr>,
    /// Unix socket of the API.
    pub socket: PathBuf,
}

/// A flag with an invalid value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct ConfigError {
    flag: &'static str,
    problem: String,
}

impl ConfigError {
    fn new(flag: &'static str, problem: impl Into<String>) -> ConfigError {
        ConfigError { flag, problem: problem.into() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(folder) => write!(f, "folder {}", folder.display()),
            Source::Api(_) => f.write_str("API server"),
        }
    }
}

impl TryFrom<AgentArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: AgentArgs) -> Result<Config, ConfigError> {
        let path = |p: PathBuf| (!p.as_os_str().is_empty()).then_some(p);
        Ok(Config {
            node_name: node_name(args.node_name)?,
            source: match args.source {
                Some(folder) => Source::Folder(folder),
                None => Source::Api(ApiAccess {
                    kubeconfig: args.kubeconfig,
                    kubelet_conf: args.kubelet_conf,
                    server: args.api_server.as_deref().map(server).transpose()?,
                }),
            },
            cni_bin_dir: path(args.cni_bin_dir),
            cni_conf_dir: path(args.cni_conf_dir),
            cni_binary: args.cni_binary,
            cni_state_dir: args.cni_state_dir,
            chain: args.chain,
            cgroup_root: args.cgroup_root,
            uplink: args.uplink.map_or(UplinkChoice::Auto, UplinkChoice::Named),
            devices: devices(args.devices)?,
            mtu: args.mtu.map(mtu).transpose()?,
            service_cidrs: args.service_cidrs,
            node_ports: node_port_addresses(&args.nodeport_addresses)?,
            external_ips: args.external_ips,
            watch_pods: args.watch_pods,
            events: args.events,
            xdp: args.xdp,
            masquerade: args.masquerade,
            snat_ports: source_ports(args.snat_ports.as_deref())?,
            flows: args.flows,
            flows_per_pod: args.flows_per_pod.unwrap_or(args.flows / 2),
            flows_without_pod: args.flows / 2,
            initial_capacity: args.initial_capacity,
            stale_pin_grace_period: Duration::from_secs(args.stale_pin_grace_period.into()),
            metrics_bind: address("--metrics-bind", &args.metrics_bind)?,
            health_bind: address("--health-bind", &args.health_bind)?,
            socket: args.socket,
        })
    }
}

/// A parser for paths that, unlike clap's, accepts the empty one.
pub fn may_be_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn node_name(name: Option<String>) -> Result<String, ConfigError> {
    name.filter(|n| !n.is_empty()).ok_or_else(|| {
        ConfigError::new("--node-name", "required; give the flag or set NODE_NAME to spec.nodeName")
    })
}

/// `primary` alone, or CIDRs, of which odd notations are read as in the API.
fn node_port_addresses(values: &[String]) -> Result<NodePortAddresses, ConfigError> {
    const FLAG: &str = "--nodeport-addresses";
    match values {
        [] => Ok(NodePortAddresses::All),
        [value] if value == "primary" => Ok(NodePortAddresses::Primary),
        values => values
            .iter()
            .map(|value| {
                let problem = || format!("{value} is not a CIDR, nor primary alone");
                parse_cidr(value).ok_or_else(|| ConfigError::new(FLAG, problem()))
            })
            .collect::<Result<_, _>>()
            .map(NodePortAddresses::Ranges),
    }
}

/// Names or patterns of devices; without any, those that routes use.
fn devices(patterns: Vec<String>) -> Result<DeviceChoice, ConfigError> {
    let invalid = |p: &&String| p.is_empty() || p.contains(|c: char| c == '/' || c.is_whitespace());
    match patterns.iter().find(invalid) {
        Some(p) => Err(ConfigError::new("--devices", format!("{p:?} is not the name of a device"))),
        None if patterns.is_empty() => Ok(DeviceChoice::Routes),
        None => Ok(DeviceChoice::Named(patterns)),
    }
}

/// A URL with scheme, host and nothing behind the port but a path.
fn server(text: &str) -> Result<Uri, ConfigError> {
    let invalid = || {
        let problem = format!("{text} is not a URL such as https://192.0.2.1:6443");
        ConfigError::new("--api-server", problem)
    };
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    if scheme && uri.host().is_some() && uri.query().is_none() { Ok(uri) } else { Err(invalid()) }
}

fn mtu(mtu: u32) -> Result<u32, ConfigError> {
    if MTUS.contains(&mtu) {
        return Ok(mtu);
    }
    let problem = format!("{mtu} is not between {} and {}", MTUS.start(), MTUS.end());
    Err(ConfigError::new("--mtu", problem))
}

fn address(flag: &'static str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |_| ConfigError::new(flag, format!("{text} is not ADDRESS:PORT"));
    text.parse().map(Some).map_err(invalid)
}

fn source_ports(text: Option<&str>) -> Result<SourcePorts, ConfigError> {
    let Some(text) = text else { return Ok(SourcePorts::default()) };
    text.parse().map_err(|e: SourcePortsError| ConfigError::new("--snat-ports", e.to_string()))
}

/// The configuration that these flags give to the node `n1`, or to the one that they name, for tests.
///
/// # Errors
/// Flags or their values are not valid.
#[cfg(test)]
pub fn of_flags(flags: &[&str]) -> Result<Config, String> {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        args: AgentArgs,
    }
    let named = flags.iter().any(|flag| flag.starts_with("--node-name"));
    let name = (!named).then_some(&"--node-name=n1");
    let all = ["agent"].iter().chain(name).chain(flags);
    let flags = <Flags as clap::Parser>::try_parse_from(all).map_err(|e| e.to_string())?;
    Config::try_from(flags.args).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
