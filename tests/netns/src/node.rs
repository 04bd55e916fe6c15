//! A node: namespaces, a cgroup, an address on the switch, and room for its pods.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::peer::Place;
use crate::{Agent, Call, Namespaces, Outcome, Pod, Sandbox, agent_binary, pod};

/// Where the agent writes the CNI configuration.
pub(crate) const CONF_DIR: &str = "/run/cni/net.d";
/// Where the agent installs the CNI binary.
pub(crate) const BIN_DIR: &str = "/run/cni/bin";

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the manifests.
    pub name: String,
    /// Its address on `eth0`.
    pub address: Ipv4Addr,
    /// The addresses of its pods.
    pub pod_cidr: String,
    /// Its namespaces.
    pub spaces: Namespaces,
    pub(crate) cgroup: Arc<Cgroup>,
    /// Manifests that its agent reads.
    pub(crate) manifests: PathBuf,
    /// Where its agent's output goes.
    pub(crate) log: PathBuf,
    place: Place,
}

impl Node {
    pub(crate) fn new(
        number: u8,
        spaces: Namespaces,
        address: Ipv4Addr,
        manifests: &Path,
        logs: &Path,
    ) -> Node {
        let name = format!("node{number}");
        let cgroup = Arc::new(Cgroup::new(&name));
        Node {
            place: Place::hooked(&spaces, &cgroup),
            log: logs.join(format!("{name}.log")),
            pod_cidr: format!("10.244.{number}.0/24"),
            manifests: manifests.to_owned(),
            cgroup,
            address,
            spaces,
            name,
        }
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    /// Starts the agent with more flags.
    pub fn agent_with(&self, flags: &[&str]) -> Agent {
        let mut agent = Agent::start(self, flags);
        agent.ready();
        agent
    }

    /// Runs a command of `sluice` here, as somebody on the node would; what it prints.
    #[track_caller]
    pub fn sluice(&self, arguments: &[&str]) -> String {
        let (well, text) = self.try_sluice(arguments);
        assert!(well, "sluice {arguments:?}: {text}");
        text
    }

    /// The same, and whether its exit code says that all is well.
    pub fn try_sluice(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.spaces.command(agent_binary());
        let output = command.args(arguments).stderr(Stdio::inherit()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    /// Starts the agent and waits for nothing.
    pub fn agent_not_ready(&self) -> Agent {
        Agent::start(self, &[])
    }

    /// The configuration that the agent wrote, as a runtime hands it to the binary; without an
    /// agent the least that works.
    pub fn config(&self) -> Value {
        let path = Path::new(CONF_DIR).join("10-sluice.conflist");
        let Ok(text) = self.spaces.run(|| fs::read(&path)) else {
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

    /// Makes the network namespace of a pod (`namespace/name`).
    pub fn sandbox(&self, name: &str) -> Sandbox {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{number:08x}{:056x}", std::process::id());
        let path = PathBuf::from(format!("/run/netns/cni-{number}"));
        let spaces = self.spaces.sandbox(&path);
        Sandbox { id, name: name.to_owned(), path, spaces }
    }

    /// Calls the CNI binary for a sandbox with this node's configuration.
    pub fn cni(&self, verb: &str, sandbox: &Sandbox) -> Outcome {
        Call::for_sandbox(verb, &self.config(), sandbox).run(&self.spaces)
    }

    /// A pod (`namespace/name`), wired.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        let sandbox = self.sandbox(name);
        let result = self.cni("ADD", &sandbox).ok();
        self.wired(&sandbox, result)
    }

    /// The pod that an ADD made.
    #[track_caller]
    pub fn wired(&self, sandbox: &Sandbox, result: Value) -> Pod {
        Pod {
            sandbox: sandbox.clone(),
            address: pod::address(&result),
            place: Place::hooked(&sandbox.spaces, &self.cgroup),
            result,
        }
    }

    /// Takes a sandbox away without any CNI call, as a crash of the runtime does.
    pub fn drop_sandbox(&self, path: &Path) {
        self.spaces.run(|| {
            umount2(path, MntFlags::MNT_DETACH).unwrap();
            fs::remove_file(path).unwrap();
        });
    }

    /// Takes the node's bpffs away.
    pub fn without_bpffs(&self) {
        self.spaces.run(|| {
            let bpffs = Path::new(sluice_abi::pin::BPFFS);
            // There may be the machine's own below it.
            while statfs(bpffs).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC) {
                umount2(bpffs, MntFlags::MNT_DETACH).unwrap();
            }
        });
    }

    /// Sets a kernel switch below /proc/sys in the node's network.
    pub fn sysctl(&self, name: &str, value: &str) {
        set(&self.spaces, name, value);
    }

    /// The node's cgroup, its agent's `--cgroup-root`.
    pub fn cgroup_root(&self) -> &Path {
        self.cgroup.path()
    }
}

/// Sets a kernel switch of a network namespace.
pub(crate) fn set(place: &Namespaces, name: &str, value: &str) {
    place.run(|| {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    });
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}
