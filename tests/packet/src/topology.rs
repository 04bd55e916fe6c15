//! The node, pods and hosts that the tests use, and the devices that represent them.
//!
//! ```text
//! CLIENT 10.244.1.10 -- pod1 --+                          +-- OTHER_NODE 172.18.0.3 -- FAR_POD 10.244.2.20
//!                            NODE 172.18.0.2 -- up0 ------+
//! SERVER 10.244.1.20 -- pod2 --+                          +-- ROUTER 172.18.0.1 -- EXTERNAL 198.51.100.7
//!                     192.168.9.2 -- up-second -- SECOND_ROUTER 192.168.9.1 -- SECOND_HOST 198.18.9.7
//!                     192.168.10.2 -- up-other (not managed) -- OTHER_HOST 192.168.10.7
//!                     192.168.11.2 -- up-new (not known to the agent) -- NEW_HOST 192.168.11.7
//! ```
//! The route to LOW_MTU_HOST, behind SECOND_ROUTER too, has an MTU of 1300 bytes.
//!
//! The devices are veth pairs in the network namespace of the test process. `bpf_fib_lookup` reads
//! their routes, neighbours and forwarding flags; no packet is sent through them.

use std::process::Command;
use std::sync::OnceLock;

use sluice_abi::Addr;

use crate::command;

/// A pod on this node.
pub const CLIENT: [u8; 4] = [10, 244, 1, 10];
/// Interface index of the host end of [`CLIENT`]'s veth pair.
pub const CLIENT_IFINDEX: u32 = 101;
/// A second pod on this node.
pub const SERVER: [u8; 4] = [10, 244, 1, 20];
/// Interface index of the host end of [`SERVER`]'s veth pair.
pub const SERVER_IFINDEX: u32 = 102;
/// Interface index of the uplink.
pub const UPLINK_IFINDEX: u32 = 100;
/// Interface index of a second uplink, with the MTU 1400.
pub const SECOND_IFINDEX: u32 = 103;
/// The address of this node on the second uplink.
pub const SECOND_NODE: [u8; 4] = [192, 168, 9, 2];
/// A host behind the second uplink.
pub const SECOND_HOST: [u8; 4] = [198, 18, 9, 7];
/// A host behind the second uplink, by a route with the MTU 1300.
pub const LOW_MTU_HOST: [u8; 4] = [198, 18, 9, 200];
/// Hardware address of the router behind the second uplink.
pub const SECOND_ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
/// Interface index of a device without Sluice's programs.
pub const OTHER_IFINDEX: u32 = 104;
/// A host behind it.
pub const OTHER_HOST: [u8; 4] = [192, 168, 10, 7];
/// A host behind a device without an entry.
pub const NEW_HOST: [u8; 4] = [192, 168, 11, 7];
/// A pod on [`OTHER_NODE`].
pub const FAR_POD: [u8; 4] = [10, 244, 2, 20];
/// The address of this node.
pub const NODE: [u8; 4] = [172, 18, 0, 2];
/// The address of another node.
pub const OTHER_NODE: [u8; 4] = [172, 18, 0, 3];
/// The default router of the nodes' network.
pub const ROUTER: [u8; 4] = [172, 18, 0, 1];
/// A host outside the cluster.
pub const EXTERNAL: [u8; 4] = [198, 51, 100, 7];
/// The link-local gateway of the pods.
pub const GATEWAY: [u8; 4] = [169, 254, 1, 1];
/// A Service address.
pub const VIP: [u8; 4] = [10, 96, 0, 50];
/// The source port of the client.
pub const PORT: u16 = 40_000;
/// First and last port for source translation.
pub const SNAT_PORTS: (u16, u16) = (61_000, 65_535);
/// Hardware address of every device on the host side.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0xee];
/// Hardware address of [`ROUTER`] in the neighbour table.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Hardware address of [`OTHER_NODE`] in the neighbour table.
pub const OTHER_NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// The addresses above by the names that conversations use.
pub const NAMES: [(&str, [u8; 4]); 9] = [
    ("client", CLIENT),
    ("server", SERVER),
    ("far-pod", FAR_POD),
    ("node", NODE),
    ("other-node", OTHER_NODE),
    ("router", ROUTER),
    ("external", EXTERNAL),
    ("gateway", GATEWAY),
    ("vip", VIP),
];

const SETUP: &str = "set -e
ip link set lo up
ip link add up0 index 100 address 02:00:00:00:01:ee type veth peer name up1
ip link add pod1 index 101 address 02:00:00:00:01:ee type veth peer name pod1-peer
ip link add pod2 index 102 address 02:00:00:00:01:ee type veth peer name pod2-peer
ip link add up-second index 103 address 02:00:00:00:01:ee mtu 1400 type veth peer name up-second-p
ip link add up-other index 104 address 02:00:00:00:01:ee type veth peer name up-other-p
ip link add up-new index 105 address 02:00:00:00:01:ee type veth peer name up-new-p
ip addr add 172.18.0.2/16 dev up0
ip addr add 192.168.9.2/24 dev up-second
ip addr add 192.168.10.2/24 dev up-other
ip addr add 192.168.11.2/24 dev up-new
for device in up0 up1 pod1 pod1-peer pod2 pod2-peer up-second up-second-p up-other up-other-p up-new up-new-p; do ip link set $device up; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
for device in up0 pod1 pod2 up-second up-other up-new; do
  sysctl -qw net.ipv4.conf.$device.forwarding=1 net.ipv4.conf.$device.rp_filter=0
done
ip neigh replace 172.18.0.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent
ip neigh replace 172.18.0.3 lladdr 02:00:00:00:00:03 dev up0 nud permanent
ip neigh replace 192.168.9.1 lladdr 02:00:00:00:09:01 dev up-second nud permanent
ip route replace default via 172.18.0.1
ip route replace 198.18.9.0/24 via 192.168.9.1
ip route replace 198.18.9.200 via 192.168.9.1 mtu lock 1300
ip route replace 10.244.2.0/24 via 172.18.0.3
";

/// The v4-mapped form of an IPv4 address.
pub fn v4(address: [u8; 4]) -> Addr {
    Addr::v4(address)
}

/// Hardware address of the pod end of a veth pair.
pub fn pod_mac(address: [u8; 4]) -> [u8; 6] {
    [2, 0, 0, 0, 1, address[3]]
}

/// Creates the devices once per network namespace.
///
/// # Panics
/// In a network namespace that has other devices: the tests must not change the host's network.
pub fn create_devices() {
    static CREATED: OnceLock<()> = OnceLock::new();
    CREATED.get_or_init(|| {
        let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        let mut names =
            devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
        let ours = |name: &&str| {
            ["lo", "sit0", "tunl0", "ip6tnl0"].contains(name)
                || ["up", "pod"].iter().any(|prefix| name.starts_with(prefix))
        };
        let foreign = names.find(|name| !ours(name));
        assert_eq!(
            foreign, None,
            "this network namespace has other devices: run `cargo xtask test --level packet`"
        );
        if std::fs::exists("/proc/sys/net/ipv4/conf/up0").unwrap() {
            return;
        }
        command::output(Command::new("sh").args(["-c", SETUP]));
    });
}
