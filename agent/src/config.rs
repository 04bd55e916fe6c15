//! Flags and environment -> a validated [`Config`]. Nobody else reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use ipnet::IpNet;

use crate::host::UplinkChoice;

/// Ports that the kernel may choose for the node's own sockets by default
/// (net.ipv4.ip_local_port_range).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Flags of `sluice agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Name of this node in the API.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Read objects from the YAML manifests in this folder, and follow them, instead of asking an
    /// API server.
    #[arg(long, value_name = "FOLDER")]
    pub source: Option<PathBuf>,
    /// Reach the API server by this kubeconfig (default: the pod's service account).
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    pub kubeconfig: Option<PathBuf>,
    /// kubelet's kubeconfig, of which only the API server's address is read.
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/kubelet.conf")]
    pub kubelet_conf: PathBuf,
    /// Install the CNI binary here, as `sluice`; empty: don't.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin", value_parser = may_be_empty())]
    pub cni_bin_dir: PathBuf,
    /// Write the CNI configuration here; empty: don't.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d", value_parser = may_be_empty())]
    pub cni_conf_dir: PathBuf,
    /// The CNI binary to install.
    #[arg(long, value_name = "FILE", default_value = "/opt/sluice/sluice-cni")]
    pub cni_binary: PathBuf,
    /// Where the CNI binary keeps its leases.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/sluice/cni")]
    pub cni_state_dir: PathBuf,
    /// cgroup v2 root of the node (default: found).
    #[arg(long, value_name = "FOLDER")]
    pub cgroup_root: Option<PathBuf>,
    /// Device that leads to the other nodes (default: the one with the node's InternalIP, else
    /// the one of the default route).
    #[arg(long, value_name = "DEVICE")]
    pub uplink: Option<String>,
    /// MTU of pods in bytes (default: the uplink's).
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Ranges of Service addresses, where known: packets to a free address there are dropped
    /// instead of leaving the cluster.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidrs: Vec<IpNet>,
    /// Let pods reach the outside with the node's address.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub masquerade: bool,
    /// Ports for translated sources; must not overlap the node's ephemeral ports or NodePorts.
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535")]
    pub snat_ports: String,
    /// Address of /metrics; empty: none.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind: String,
    /// Address of /healthz and /livez; empty: none.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    pub health_bind: String,
    /// Socket of the command line.
    #[arg(long, value_name = "FILE", default_value = crate::api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Reads a path; unlike clap's own parser it takes an empty one, which means "none".
pub fn may_be_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of YAML manifests.
    Folder(PathBuf),
    /// The API server.
    Api {
        /// Explicit kubeconfig.
        kubeconfig: Option<PathBuf>,
        /// kubelet's, for the address alone.
        kubelet_conf: PathBuf,
    },
}

/// What the agent runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Where objects come from.
    pub source: Source,
    /// Where to install the CNI binary, if at all.
    pub cni_bin_dir: Option<PathBuf>,
    /// Where to write the CNI configuration, if at all.
    pub cni_conf_dir: Option<PathBuf>,
    /// The CNI binary to install.
    pub cni_binary: PathBuf,
    /// Where the CNI binary keeps its leases.
    pub cni_state_dir: PathBuf,
    /// cgroup v2 root, if given.
    pub cgroup_root: Option<PathBuf>,
    /// How the uplink is found.
    pub uplink: UplinkChoice,
    /// MTU of pods, if given.
    pub mtu: Option<u32>,
    /// Ranges of Service addresses, where known.
    pub service_cidrs: Vec<IpNet>,
    /// Whether pods are masqueraded.
    pub masquerade: bool,
    /// First and last port for translated sources.
    pub snat_ports: (u16, u16),
    /// Address of /metrics.
    pub metrics_bind: Option<SocketAddr>,
    /// Address of /healthz.
    pub health_bind: Option<SocketAddr>,
    /// Socket of the command line.
    pub socket: PathBuf,
}

/// A flag that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct ConfigError {
    flag: &'static str,
    problem: String,
}

fn error(flag: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { flag, problem: problem.into() }
}

impl TryFrom<AgentArgs> for Config {
    type Error = ConfigError;

    fn try_from(a: AgentArgs) -> Result<Config, ConfigError> {
        let node_name = a
            .node_name
            .filter(|n| !n.is_empty())
            .ok_or_else(|| error("--node-name", "missing, and NODE_NAME is not set"))?;
        if let Some(mtu) = a.mtu
            && !(576..=65_535).contains(&mtu)
        {
            return Err(error("--mtu", format!("{mtu} is not between 576 and 65535")));
        }
        let path = |p: PathBuf| (!p.as_os_str().is_empty()).then_some(p);
        Ok(Config {
            node_name,
            source: match a.source {
                Some(folder) => Source::Folder(folder),
                None => Source::Api { kubeconfig: a.kubeconfig, kubelet_conf: a.kubelet_conf },
            },
            cni_bin_dir: path(a.cni_bin_dir),
            cni_conf_dir: path(a.cni_conf_dir),
            cni_binary: a.cni_binary,
            cni_state_dir: a.cni_state_dir,
            cgroup_root: a.cgroup_root,
            uplink: a.uplink.map_or(UplinkChoice::Auto, UplinkChoice::Named),
            mtu: a.mtu,
            service_cidrs: a.service_cidrs,
            masquerade: a.masquerade,
            snat_ports: port_range(&a.snat_ports)?,
            metrics_bind: address("--metrics-bind", &a.metrics_bind)?,
            health_bind: address("--health-bind", &a.health_bind)?,
            socket: a.socket,
        })
    }
}

fn address(flag: &'static str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| error(flag, format!("{text} is not ADDRESS:PORT")))
}

fn port_range(text: &str) -> Result<(u16, u16), ConfigError> {
    const FLAG: &str = "--snat-ports";
    let parsed = text
        .split_once('-')
        .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    let (first, last): (u16, u16) =
        parsed.ok_or_else(|| error(FLAG, format!("{text} is not FIRST-LAST")))?;
    if first < 1024 || last < first {
        return Err(error(FLAG, format!("{text} is not a range of ports above 1023")));
    }
    if first <= *EPHEMERAL.end() && last >= *EPHEMERAL.start() {
        return Err(error(
            FLAG,
            format!(
                "{text} overlaps the node's ephemeral ports {}-{}",
                EPHEMERAL.start(),
                EPHEMERAL.end()
            ),
        ));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        let named = flags.iter().any(|f| f.starts_with("--node-name"));
        let name = (!named).then_some("--node-name=n1");
        let all = ["sluice"].into_iter().chain(name).chain(flags.iter().copied());
        let cli = Cli::try_parse_from(all).map_err(|e| e.to_string())?;
        Config::try_from(cli.args).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_has_to_be_set_but_the_name() {
        let c = config(&[]).unwrap();
        assert_eq!(c.snat_ports, (61_000, 65_535));
        assert!(c.masquerade);
        assert_eq!(c.uplink, UplinkChoice::Auto);
        assert_eq!(c.health_bind.unwrap().port(), 10_256);
        assert!(matches!(c.source, Source::Api { kubeconfig: None, .. }));
    }

    #[test]
    fn empty_means_none() {
        let c = config(&["--metrics-bind=", "--cni-conf-dir=", "--masquerade=false"]).unwrap();
        assert_eq!((c.metrics_bind, c.cni_conf_dir, c.masquerade), (None, None, false));
    }

    #[test]
    fn nonsense_is_named() {
        for (flags, want) in [
            (&["--snat-ports=40000-50000"][..], "--snat-ports: 40000-50000 overlaps"),
            (&["--snat-ports=65000-61000"], "--snat-ports: 65000-61000 is not a range"),
            (&["--snat-ports=all"], "--snat-ports: all is not FIRST-LAST"),
            (&["--mtu=100"], "--mtu: 100 is not between"),
            (&["--health-bind=nowhere"], "--health-bind: nowhere is not ADDRESS:PORT"),
            (&["--node-name="], "--node-name: missing"),
            (&["--source=/a", "--kubeconfig=/b"], "cannot be used with"),
        ] {
            let e = config(flags).unwrap_err();
            assert!(e.contains(want), "{flags:?}: {e}");
        }
    }
}
