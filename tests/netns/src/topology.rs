//! The network between nodes and the host outside.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::artefacts::{self, Recorded};
use crate::cgroup::{Cgroup, PREFIX, left_over};
use crate::node::sysctl;
use crate::{Host, Namespaces, Node, ip};

/// Address of the host outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Address of the host behind [`Topology::second_uplink`].
pub const SECOND_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);

/// How a topology differs from the default.
#[derive(Clone, Copy, Debug)]
pub struct TopologyOptions {
    /// MTU of the link between the two routers.
    pub narrow_link: u32,
    /// The routers send the pod ranges to their nodes and the Service range (10.96.0.0/16) to
    /// node 1, as the routes of a cloud do. A packet that a node sends back by its default route
    /// then loops until its TTL is exceeded.
    pub cluster_routes: bool,
}

impl Default for TopologyOptions {
    fn default() -> TopologyOptions {
        TopologyOptions { narrow_link: 1500, cluster_routes: false }
    }
}

/// How a node differs from the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeOptions<'a> {
    /// Range of its pods; default: 10.244.NUMBER.0/24.
    pub pod_cidr: Option<&'a str>,
}

/// Switch, routers and the host outside; nodes are added to it.
///
/// When it is dropped by a panicking test, it writes the state of every node to
/// `target/test-artefacts/netns/<test>/`.
#[derive(Debug)]
pub struct Topology {
    switch: Namespaces,
    routers: [Namespaces; 2],
    /// A host outside the cluster.
    pub outside: Host,
    options: TopologyOptions,
    recorded: Mutex<Vec<Recorded>>,
    folder: TempDir,
}

impl Topology {
    /// The default topology.
    pub fn new() -> Topology {
        Topology::with(TopologyOptions::default())
    }

    /// The topology with these options.
    pub fn with(options: TopologyOptions) -> Topology {
        let folder = temporary_folder();
        fs::create_dir(folder.path().join("manifests")).unwrap();

        let switch = Namespaces::host();
        ip(&switch, "link add br0 type bridge forward_delay 0");
        ip(&switch, "link set br0 up");
        let (near, far) = (Namespaces::host(), Namespaces::host());
        let outside = Namespaces::host();
        for router in [&near, &far] {
            sysctl(router, "net/ipv4/ip_forward", "1");
            sysctl(router, "net/ipv4/conf/all/send_redirects", "0");
        }
        plug(&switch, "router", &near, "172.30.0.1/24");
        connect(&near, "wan", "192.0.2.1/24", &far, "wan", "192.0.2.2/24", options.narrow_link);
        connect(&far, "lan", "203.0.113.1/24", &outside, "eth0", &format!("{OUTSIDE}/24"), 1500);
        ip(&near, "route add default via 192.0.2.2");
        ip(&far, "route add 172.30.0.0/24 via 192.0.2.1");
        ip(&outside, "route add default via 203.0.113.1");
        if options.cluster_routes {
            ip(&near, "route add 10.96.0.0/16 via 172.30.0.11");
            ip(&far, "route add 10.0.0.0/8 via 192.0.2.1");
        }

        let recorded = vec![
            Recorded::host("router-near", &near),
            Recorded::host("router-far", &far),
            Recorded::host("outside", &outside),
        ];
        let outside_cgroup = Arc::new(Cgroup::new("outside"));
        Topology {
            switch,
            routers: [near, far],
            outside: Host::in_cgroup(&outside, &outside_cgroup),
            options,
            recorded: Mutex::new(recorded),
            folder,
        }
    }

    /// Adds node `number` (1 to 200): address 172.30.0.(10+number), pods in 10.244.number.0/24,
    /// known to every agent by a manifest.
    pub fn node(&self, number: u8) -> Node {
        self.node_with(number, NodeOptions::default())
    }

    /// Adds a node with options.
    pub fn node_with(&self, number: u8, options: NodeOptions<'_>) -> Node {
        let address = Ipv4Addr::new(172, 30, 0, 10 + number);
        let pod_cidr =
            options.pod_cidr.map_or_else(|| format!("10.244.{number}.0/24"), str::to_owned);
        let namespaces = Namespaces::node();
        plug(&self.switch, &format!("node{number}"), &namespaces, &format!("{address}/24"));
        ip(&namespaces, "route add default via 172.30.0.1");
        if self.options.cluster_routes {
            ip(&self.routers[0], &format!("route add {pod_cidr} via {address}"));
        }
        let node = Node::new(number, namespaces, address, pod_cidr, self.folder.path());
        self.recorded.lock().unwrap().push(Recorded::node(&node));
        self.apply(&node.name, &crate::manifest::node(&node));
        node
    }

    /// Writes a manifest that every agent reads; the same name again replaces it.
    pub fn apply(&self, name: &str, yaml: &str) {
        let folder = self.manifests();
        // Written beside and renamed, so that no agent reads half of it.
        let temporary = folder.join(format!(".{name}.new"));
        fs::write(&temporary, yaml).unwrap();
        fs::rename(&temporary, folder.join(format!("{name}.yaml"))).unwrap();
    }

    /// Removes a manifest.
    pub fn delete(&self, name: &str) {
        fs::remove_file(self.manifests().join(format!("{name}.yaml"))).unwrap();
    }

    /// Connects device `eth1` of a node (198.51.100.11) with a second router (198.51.100.1), behind
    /// which is a host at [`SECOND_OUTSIDE`]. Returns the router and the host.
    pub fn second_uplink(&self, node: &Node) -> (Namespaces, Host) {
        let (router, host) = (Namespaces::host(), Namespaces::host());
        sysctl(&router, "net/ipv4/ip_forward", "1");
        sysctl(&router, "net/ipv4/conf/all/send_redirects", "0");
        connect(
            &router,
            "wan",
            "198.51.100.1/24",
            &node.namespaces,
            "eth1",
            "198.51.100.11/24",
            1500,
        );
        let address = format!("{SECOND_OUTSIDE}/24");
        connect(&router, "lan", "198.18.0.1/24", &host, "eth0", &address, 1500);
        ip(&host, "route add default via 198.18.0.1");
        let cgroup = Arc::new(Cgroup::new("second"));
        let mut recorded = self.recorded.lock().unwrap();
        recorded.push(Recorded::host("second-router", &router));
        recorded.push(Recorded::host("second-outside", &host));
        (router, Host::in_cgroup(&host, &cgroup))
    }

    /// The switch, whose ports have the names of the nodes.
    pub fn switch(&self) -> &Namespaces {
        &self.switch
    }

    /// The router between the switch and the outside.
    pub fn router(&self) -> &Namespaces {
        &self.routers[0]
    }

    /// Path of a packet capture, which is kept if the test fails.
    pub fn capture_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pcap"))
    }

    /// A new folder on disk. It is removed with the topology, or, if this process is aborted, by the next
    /// one.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }
}

impl Default for Topology {
    fn default() -> Topology {
        Topology::new()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(recorded) = self.recorded.lock()
        {
            artefacts::write(&recorded, self.folder.path());
        }
    }
}

/// A temporary folder; those that killed test processes left are removed.
fn temporary_folder() -> TempDir {
    for path in left_over(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(path);
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().unwrap()
}

/// Connects a port of the switch with `eth0` of a host.
fn plug(switch: &Namespaces, port: &str, host: &Namespaces, address: &str) {
    pair(switch, port, host, "eth0");
    ip(switch, &format!("link set {port} master br0 up"));
    ip(host, &format!("addr add {address} dev eth0"));
    ip(host, "link set eth0 up");
}

fn connect(
    a: &Namespaces,
    a_device: &str,
    a_address: &str,
    b: &Namespaces,
    b_device: &str,
    b_address: &str,
    mtu: u32,
) {
    pair(a, a_device, b, b_device);
    for (host, device, address) in [(a, a_device, a_address), (b, b_device, b_address)] {
        ip(host, &format!("addr add {address} dev {device}"));
        ip(host, &format!("link set {device} mtu {mtu} up"));
    }
}

fn pair(a: &Namespaces, a_device: &str, b: &Namespaces, b_device: &str) {
    let other = b.net_path();
    let other = Path::display(&other);
    ip(a, &format!("link add {a_device} type veth peer name {b_device} netns {other}"));
}
