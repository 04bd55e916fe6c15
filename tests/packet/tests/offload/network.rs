//! A node with two pods and an external host, each in a network namespace.

use packet_tests::namespace::Namespace;
use packet_tests::{CLIENT, Counters, Datapath, EXTERNAL, SERVER, counters};
use sluice_abi::{Outcome, device_flags, program};
use sluice_bpf::attach::{Direction, Mechanism, attach_device_by};
use sluice_bpf::netlink::Netlink;

/// A socket's end: its namespace, and the address that it is bound to.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// Namespace.
    pub namespace: &'a Namespace,
    /// Address.
    pub address: [u8; 4],
}

/// The namespaces, with the programs attached to the node's devices.
pub struct Network {
    /// Programs and maps.
    pub datapath: Datapath,
    /// The first pod.
    pub client: Pod,
    /// The second pod.
    pub server: Pod,
    /// The external host.
    pub external: Namespace,
    _node: Namespace,
}

/// A pod: its namespace, and one behind it that has its address and its sockets.
pub struct Pod {
    app: Namespace,
    _pod: Namespace,
    address: [u8; 4],
}

impl Pod {
    fn create(node: &Namespace, name: &str, address: [u8; 4]) -> Pod {
        let pod = Namespace::create(name);
        let app = Namespace::create(&format!("{name}-app"));
        let ip = std::net::Ipv4Addr::from(address);
        let mac = format!("02:00:00:00:01:{:02x}", address[3]);
        node.shell(&format!(
            "ip link add {name} address 02:00:00:00:01:ee type veth \
                 peer name eth0 address {mac} netns {pod}
             ip link set {name} up
             ip route add {ip} dev {name}
             ip neigh replace {ip} lladdr {mac} dev {name} nud permanent
             sysctl -qw net.ipv4.conf.{name}.rp_filter=0",
            pod = pod.name(),
        ));
        pod.shell(&format!(
            "ip link add app0 address 02:00:00:00:02:01 type veth \
                 peer name eth0 address 02:00:00:00:02:02 netns {app}
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.app0.rp_filter=0 \
                 net.ipv4.conf.eth0.send_redirects=0 net.ipv4.conf.all.send_redirects=0
             ip link set eth0 up
             ip link set app0 up
             ip addr add 169.254.2.1/32 dev app0
             ip route add {ip} dev app0
             ip neigh replace {ip} lladdr 02:00:00:00:02:02 dev app0 nud permanent
             ip route add default via 169.254.1.1 dev eth0 onlink
             ip neigh replace 169.254.1.1 lladdr 02:00:00:00:01:ee dev eth0 nud permanent
             ethtool -K app0 tx off > /dev/null",
            app = app.name(),
        ));
        app.shell(&format!(
            "ip addr add {ip}/32 dev eth0
             ip link set eth0 up
             ip route add default via 169.254.2.1 dev eth0 onlink
             ip neigh replace 169.254.2.1 lladdr 02:00:00:00:02:01 dev eth0 nud permanent
             ethtool -k eth0 | grep -q 'tx-checksum-ip-generic: on'
             ethtool -k eth0 | grep -q 'tcp-segmentation-offload: on'"
        ));
        Pod { app, _pod: pod, address }
    }

    /// Where its sockets are.
    pub fn end(&self) -> End<'_> {
        End { namespace: &self.app, address: self.address }
    }
}

impl Network {
    /// Creates the namespaces and attaches the programs.
    pub fn create() -> Network {
        let node = Namespace::create("node");
        let client = Pod::create(&node, "client", CLIENT);
        let server = Pod::create(&node, "server", SERVER);
        let external = Namespace::create("external");
        node.shell(&format!(
            "ip link add up0 type veth peer name eth0 netns {}
             ip addr add 172.18.0.2/16 dev up0
             ip link set up0 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.up0.rp_filter=0
             ip route add default via 172.18.0.1
             ethtool -K up0 tx off > /dev/null",
            external.name(),
        ));
        external.shell(
            "ip addr add 172.18.0.1/16 dev eth0
             ip addr add 198.51.100.7/32 dev lo
             ip link set eth0 up
             ip route add 10.244.1.0/24 via 172.18.0.2
             ip route add 10.96.0.0/16 via 172.18.0.2 src 198.51.100.7
             ethtool -k eth0 | grep -q 'tx-checksum-ip-generic: on'",
        );
        let datapath = Datapath::node();
        node.run(|| attach(&datapath));
        Network { datapath, client, server, external, _node: node }
    }

    /// Where the external host's sockets are.
    pub fn external(&self) -> End<'_> {
        End { namespace: &self.external, address: EXTERNAL }
    }

    /// Asserts that each of these outcomes was counted.
    pub fn assert_counted(&self, outcomes: &[Outcome]) {
        let counters = self.datapath.counters();
        for outcome in outcomes {
            assert!(counters.contains_key(outcome.label()), "{outcome:?}: {counters:?}");
        }
    }
}

/// Attaches the tc programs to the devices of the node, and writes its pods.
fn attach(datapath: &Datapath) {
    let mut netlink = Netlink::open().unwrap();
    let index = |name: &str| {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: the name is a valid C string.
        unsafe { libc::if_nametoindex(name.as_ptr()) }
    };
    let devices = [
        ("client", program::FROM_POD, program::TO_POD),
        ("server", program::FROM_POD, program::TO_POD),
        ("up0", program::FROM_NETDEV, program::TO_NETDEV),
    ];
    for (device, ingress, egress) in devices {
        for (direction, name) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
            let prog = datapath.fd(name);
            attach_device_by(&mut netlink, index(device), direction, prog, Mechanism::Clsact)
                .unwrap_or_else(|e| panic!("{device} {direction:?}: {e}"));
        }
    }
    datapath.device(index("up0"), [172, 18, 0, 2], device_flags::MANAGED);
    datapath.local_pod(CLIENT, index("client"));
    datapath.local_pod(SERVER, index("server"));
}

/// Asserts that packets counted between two moments were longer than the MTU: GSO packets passed the
/// programs.
pub fn assert_gso(outcome: Outcome, before: &Counters, after: &Counters) {
    let moved = counters::difference(before, after);
    let counter = moved.get(outcome.label()).copied().unwrap_or_default();
    let mean = counter.bytes.checked_div(counter.packets).unwrap_or(0);
    assert!(mean > 1600, "packets counted as {} have {mean} bytes: no GSO", outcome.label());
}
