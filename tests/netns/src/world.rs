//! The network that nodes stand in.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::Cgroup;
use crate::node::set;
use crate::peer::Place;
use crate::{Namespaces, Node, ip};

/// Address of the host outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Switch, routers and the host outside; nodes are added to it.
#[derive(Debug)]
pub struct World {
    switch: Namespaces,
    /// Held so that they exist.
    _routers: [Namespaces; 2],
    /// A host that knows nothing of the cluster but the nodes' addresses.
    pub outside: Place,
    manifests: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    /// Every link has an MTU of 1500.
    pub fn new() -> World {
        World::with_narrow_link(1500)
    }

    /// The link between the two routers has this MTU.
    pub fn with_narrow_link(mtu: u32) -> World {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).unwrap();

        let switch = Namespaces::host();
        ip(&switch, "link add br0 type bridge forward_delay 0");
        ip(&switch, "link set br0 up");
        let near = Namespaces::host();
        let far = Namespaces::host();
        let outside = Namespaces::host();
        for router in [&near, &far] {
            set(router, "net/ipv4/ip_forward", "1");
        }
        plug(&switch, "router", &near, "172.30.0.1/24");
        wire(&near, "wan", "192.0.2.1/24", &far, "wan", "192.0.2.2/24", mtu);
        wire(&far, "lan", "203.0.113.1/24", &outside, "eth0", &format!("{OUTSIDE}/24"), 1500);
        ip(&near, "route add default via 192.0.2.2");
        ip(&far, "route add 172.30.0.0/24 via 192.0.2.1");
        ip(&outside, "route add default via 203.0.113.1");

        let outside_group = Arc::new(Cgroup::new("outside"));
        World {
            switch,
            _routers: [near, far],
            outside: Place::hooked(&outside, &outside_group),
            manifests,
            folder,
        }
    }

    /// Adds node `number` (1 to 200): 172.30.0.(10+number), pods in 10.244.number.0/24, known
    /// to every agent by a manifest.
    pub fn node(&self, number: u8) -> Node {
        self.node_with_mtu(number, 1500)
    }

    /// Adds a node whose uplink has this MTU.
    pub fn node_with_mtu(&self, number: u8, mtu: u32) -> Node {
        let address = Ipv4Addr::new(172, 30, 0, 10 + number);
        let spaces = Namespaces::node();
        plug(&self.switch, &format!("node{number}"), &spaces, &format!("{address}/24"));
        ip(&spaces, &format!("link set eth0 mtu {mtu}"));
        ip(&spaces, "route add default via 172.30.0.1");
        let node = Node::new(number, spaces, address, &self.manifests, self.folder.path());
        self.apply(&node.name, &crate::manifest::node(&node));
        node
    }

    /// Writes a manifest that every agent reads; the same name again replaces it.
    pub fn apply(&self, name: &str, yaml: &str) {
        write(&self.manifests, name, yaml);
    }

    /// Takes a manifest away.
    pub fn delete(&self, name: &str) {
        fs::remove_file(self.manifests.join(format!("{name}.yaml"))).unwrap();
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

/// Written beside and renamed, so that no agent reads half of it.
fn write(folder: &Path, name: &str, yaml: &str) {
    let beside = folder.join(format!(".{name}.new"));
    fs::write(&beside, yaml).unwrap();
    fs::rename(&beside, folder.join(format!("{name}.yaml"))).unwrap();
}

/// A cable from a port of the switch to `eth0` of a host.
fn plug(switch: &Namespaces, port: &str, host: &Namespaces, address: &str) {
    pair(switch, port, host, "eth0");
    ip(switch, &format!("link set {port} master br0 up"));
    ip(host, &format!("addr add {address} dev eth0"));
    ip(host, "link set eth0 up");
}

fn wire(
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
    let other = other.display();
    ip(a, &format!("link add {a_device} type veth peer name {b_device} netns {other}"));
}
