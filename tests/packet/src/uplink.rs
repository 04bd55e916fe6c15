//! A real uplink for `bpf_fib_lookup`: a veth pair in the test's own network namespace, with routes
//! and permanent neighbours. Its other end answers nothing; packets are only asked about, not sent.

use std::process::Command;
use std::sync::OnceLock;

const SETUP: &str = "set -e
ip link set lo up
ip link add up0 address 02:00:00:00:01:ee type veth peer name up1
ip addr add 172.18.0.2/16 dev up0
ip link set up0 up
ip link set up1 up
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.forwarding=1 net.ipv4.conf.lo.forwarding=1 net.ipv4.conf.up0.forwarding=1
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lo.rp_filter=0 net.ipv4.conf.up0.rp_filter=0
ip neigh replace 172.18.0.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent
ip neigh replace 172.18.0.3 lladdr 02:00:00:00:00:03 dev up0 nud permanent
ip route replace default via 172.18.0.1
ip route replace 10.244.2.0/24 via 172.18.0.3
";

/// Interface index of the uplink, made at the first call.
///
/// # Panics
/// In the machine's own network namespace, which tests must not change.
pub fn uplink_ifindex() -> u32 {
    static IFINDEX: OnceLock<u32> = OnceLock::new();
    *IFINDEX.get_or_init(|| {
        let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        let strange = devices
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim())
            .find(|name| !["lo", "up0", "up1", "sit0", "tunl0", "ip6tnl0"].contains(name));
        assert_eq!(
            strange, None,
            "not a network namespace of our own: run this by `cargo xtask test --level packet`"
        );
        let read = || std::fs::read_to_string("/sys/class/net/up0/ifindex");
        let present = Command::new("ip").args(["link", "show", "up0"]).output().unwrap();
        if !present.status.success() {
            let made = Command::new("sh").args(["-c", SETUP]).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let link = Command::new("ip").args(["-o", "link", "show", "up0"]).output().unwrap();
        let text = String::from_utf8_lossy(&link.stdout).into_owned();
        let index = text.split(':').next().and_then(|n| n.trim().parse().ok());
        index.or_else(|| read().ok()?.trim().parse().ok()).expect("up0 has an index")
    })
}
