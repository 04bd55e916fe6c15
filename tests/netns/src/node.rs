//! A node: namespaces, a cgroup, an address on the switch, and its pods.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::process::{command_deadline, run};
use crate::{
    Agent, CniCall, CniOutput, Host, Namespaces, Pod, Sandbox, Version, agent_binary, pod,
};

/// Folder of the CNI configuration that the agent writes.
pub(crate) const CONF_DIR: &str = "/run/cni/net.d";
/// Folder of the CNI binary that the agent installs.
pub(crate) const BIN_DIR: &str = "/run/cni/bin";
/// The CNI configuration that the agent writes.
pub const CONF_FILE: &str = "/run/cni/net.d/05-sluice.conflist";
/// The CNI binary that the agent installs.
pub const BIN_FILE: &str = "/run/cni/bin/sluice";

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Name in the manifests.
    pub name: String,
    /// Address on `eth0`.
    pub address: Ipv4Addr,
    /// Range of its pods' addresses.
    pub pod_cidr: String,
    /// Its namespaces.
    pub namespaces: Namespaces,
    pub(crate) cgroup: Arc<Cgroup>,
    /// Folder of manifests that its agent reads.
    pub(crate) manifests: PathBuf,
    /// File of its agents' output.
    pub(crate) log: PathBuf,
    host: Host,
}

impl Node {
    pub(crate) fn new(
        number: u8,
        namespaces: Namespaces,
        address: Ipv4Addr,
        pod_cidr: String,
        folder: &Path,
    ) -> Node {
        let name = format!("node{number}");
        let cgroup = Arc::new(Cgroup::new(&name));
        Node {
            host: Host::in_cgroup(&namespaces, &cgroup),
            log: folder.join(format!("{name}.log")),
            pod_cidr,
            manifests: folder.join("manifests"),
            cgroup,
            address,
            namespaces,
            name,
        }
    }

    /// Starts the agent and waits until it is ready.
    pub fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    /// Starts the agent with more flags and waits until it is ready.
    pub fn agent_with(&self, flags: &[&str]) -> Agent {
        let mut agent = self.agent_not_ready(flags);
        agent.wait_ready();
        agent
    }

    /// Starts the agent with more flags and does not wait.
    pub fn agent_not_ready(&self, flags: &[&str]) -> Agent {
        Agent::start(self, Version::This, flags)
    }

    /// Starts the agent of a version and does not wait.
    pub fn agent_of(&self, version: Version) -> Agent {
        self.agent_of_with(version, &[])
    }

    /// Starts the agent of a version with more flags and does not wait.
    pub fn agent_of_with(&self, version: Version, flags: &[&str]) -> Agent {
        Agent::start(self, version, flags)
    }

    /// Runs an agent whose flags it must refuse; returns its standard error.
    #[track_caller]
    pub fn agent_fails(&self, flags: &[&str]) -> String {
        Agent::fail(self, flags)
    }

    /// Runs a command of `sluice` on the node; returns its standard output.
    #[track_caller]
    pub fn sluice(&self, arguments: &[&str]) -> String {
        let (success, text) = self.try_sluice(arguments);
        assert!(success, "sluice {arguments:?}: {text}");
        text
    }

    /// Runs a command of `sluice`; whether its exit code is 0, and its output.
    #[track_caller]
    pub fn try_sluice(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.namespaces.command(agent_binary());
        let output = run(command.args(arguments), command_deadline())
            .unwrap_or_else(|e| panic!("sluice {arguments:?}: {e}"));
        let mut text = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            text.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        (output.status.success(), text)
    }

    /// The configuration that the agent wrote, as a runtime passes it to the binary; without one
    /// the smallest valid configuration.
    pub fn config(&self) -> Value {
        let Ok(text) = self.namespaces.run(|| fs::read(CONF_FILE)) else {
            return json!({
                "cniVersion": "1.1.0", "name": "sluice", "type": "sluice",
                "subnet": self.pod_cidr,
            });
        };
        let list: Value = serde_json::from_slice(&text).unwrap();
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        config
    }

    /// Creates the network namespace of a pod (`namespace/name`).
    pub fn sandbox(&self, name: &str) -> Sandbox {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{number:08x}{:056x}", std::process::id());
        let path = PathBuf::from(format!("/run/netns/cni-{number}"));
        let namespaces = self.namespaces.sandbox(&path);
        Sandbox { id, name: name.to_owned(), path, namespaces }
    }

    /// Calls the CNI binary for a sandbox with this node's configuration.
    #[track_caller]
    pub fn cni(&self, verb: &str, sandbox: &Sandbox) -> CniOutput {
        self.cni_with(verb, &self.config(), sandbox)
    }

    /// Calls the CNI binary for a sandbox with another configuration.
    #[track_caller]
    pub fn cni_with(&self, verb: &str, config: &Value, sandbox: &Sandbox) -> CniOutput {
        CniCall::for_sandbox(verb, config, sandbox).run(&self.namespaces)
    }

    /// Calls the CNI binary that the agent has installed, as a runtime does.
    #[track_caller]
    pub fn installed_cni(&self, verb: &str, sandbox: &Sandbox) -> CniOutput {
        CniCall::for_sandbox(verb, &self.config(), sandbox)
            .with_binary(Path::new(BIN_FILE))
            .run(&self.namespaces)
    }

    /// Calls the CNI binary with a verb that concerns no sandbox: STATUS, GC or VERSION.
    #[track_caller]
    pub fn cni_of_network(&self, verb: &str, config: &Value) -> CniOutput {
        CniCall::new(verb, config).run(&self.namespaces)
    }

    /// A pod (`namespace/name`) with its interface.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        let sandbox = self.sandbox(name);
        let result = self.cni("ADD", &sandbox).ok();
        self.pod_of(&sandbox, result)
    }

    /// A pod with hostPorts, in the form of `runtimeConfig.portMappings`.
    #[track_caller]
    pub fn pod_with_host_ports(&self, name: &str, mappings: Value) -> Pod {
        let sandbox = self.sandbox(name);
        let mut config = self.config();
        config["runtimeConfig"] = json!({ "portMappings": mappings });
        let result = self.cni_with("ADD", &config, &sandbox).ok();
        self.pod_of(&sandbox, result)
    }

    /// The pod that an ADD with this result created.
    #[track_caller]
    pub fn pod_of(&self, sandbox: &Sandbox, result: Value) -> Pod {
        Pod {
            sandbox: sandbox.clone(),
            address: pod::address(&result),
            host: Host::in_cgroup(&sandbox.namespaces, &self.cgroup),
            result,
        }
    }

    /// Removes a sandbox without a CNI call, as a crash of the runtime does.
    pub fn drop_sandbox(&self, path: &Path) {
        self.namespaces.run(|| {
            umount2(path, MntFlags::MNT_DETACH).unwrap();
            fs::remove_file(path).unwrap();
        });
    }

    /// Unmounts the node's bpffs.
    pub fn unmount_bpffs(&self) {
        self.namespaces.run(|| {
            let bpffs = Path::new(sluice_abi::pin::BPFFS);
            // The machine's own may be mounted below it.
            while statfs(bpffs).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC) {
                umount2(bpffs, MntFlags::MNT_DETACH).unwrap();
            }
        });
    }

    /// Whether a file exists in the node's mounts.
    pub fn exists(&self, path: &str) -> bool {
        self.namespaces.run(|| Path::new(path).exists())
    }

    /// Sets a sysctl of the node's network namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        sysctl(&self.namespaces, name, value);
    }

    /// The node's cgroup: the `--cgroup-root` of its agent.
    pub fn cgroup_root(&self) -> &Path {
        self.cgroup.path()
    }
}

/// Starts these agents at the same time, each with its flags, and waits until all are ready.
#[track_caller]
pub fn agents<const N: usize>(nodes: [(&Node, &[&str]); N]) -> [Agent; N] {
    let mut agents = nodes.map(|(node, flags)| node.agent_not_ready(flags));
    agents.iter_mut().for_each(Agent::wait_ready);
    agents
}

/// Sets a sysctl of a network namespace.
pub fn sysctl(namespaces: &Namespaces, name: &str, value: &str) {
    namespaces.run(|| {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    });
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
