//! Paths and file names on the node, each given once: the defaults of all flags refer to them.

/// Where the container runtime searches CNI binaries.
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// Where the container runtime reads the CNI configuration.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// The CNI binary in the agent's image.
pub const CNI_BINARY: &str = "/opt/sluice/sluice-cni";
/// Where the CNI binary stores its leases.
pub const CNI_STATE_DIR: &str = sluice_pod::DEFAULT_STATE_DIR;
/// What former versions kept on the node beyond a boot, the leases included.
pub const STATE_DIR: &str = "/var/lib/sluice";
/// The kubelet's kubeconfig.
pub const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
/// What is kept until the next boot: the lock of the agent, its socket.
pub const RUN_DIR: &str = "/run/sluice";
/// The agent's socket for the command line.
pub const SOCKET: &str = "/run/sluice/sluice.sock";

/// Name of the installed CNI binary, equal to `"type"` in the configuration.
pub const CNI_BINARY_NAME: &str = "sluice";
/// Name of the CNI network in the configuration.
pub const CNI_NETWORK: &str = "sluice";
/// Name of the CNI configuration; the runtime uses the first in alphabetical order. It precedes those
/// that other networks leave behind, such as 10-kindnet.conflist and 10-flannel.conflist.
pub const CNI_CONF_NAME: &str = "05-sluice.conflist";
/// End of the name of a file that the agent writes before it renames it; no runtime reads such files.
pub const STAGED_SUFFIX: &str = ".sluice-new";
/// Name of the CNI configuration in former versions.
pub const FORMER_CNI_CONF_NAME: &str = "10-sluice.conflist";
