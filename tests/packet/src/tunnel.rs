//! A TUN device, whose packets have no Ethernet header, with the programs for such devices.
//!
//! ```text
//! receives  --write(2)--------> vpn0 --from_l3dev--> verdict
//! sends     --packet socket---> vpn0 --to_l3dev----> verdict
//! ```
//! `BPF_PROG_TEST_RUN` gives every packet of a tc program an Ethernet header, so that it cannot run these
//! programs. The device is in a network namespace of its own. The kernel runs the program within the call
//! that passes the packet on; the counters have the verdict.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sluice_abi::{Counter, device_flags, network_kind, program};
use sluice_bpf::attach::{Direction, Mechanism, attach_device_by};
use sluice_bpf::netlink::Netlink;

use crate::namespace::Namespace;
use crate::{Counters, Datapath, Packet, counters};

/// The address of this node on the device.
pub const ADDRESS: [u8; 4] = [10, 99, 0, 1];
/// A pod of another node; the route to it is by the device.
pub const REMOTE_POD: [u8; 4] = [10, 244, 3, 20];
/// A host outside the cluster; the route to it is by the device.
pub const REMOTE_HOST: [u8; 4] = [203, 0, 113, 7];

/// Name of the device.
const NAME: &CStr = c"vpn0";
/// A device without packet information before each packet.
const FLAGS: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
/// `TUNSETIFF`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// Bytes of the Ethernet header that the programs add.
const ETH_LEN: usize = 14;

/// Addresses and routes of the namespace. The route to FAR_POD is by `up0`.
const SETUP: &str = "
ip link add up0 address 02:00:00:00:01:ee type veth peer name up1
ip addr add 172.18.0.2/16 dev up0
ip addr add 10.99.0.1/24 dev vpn0
for device in up0 up1 vpn0; do ip link set $device up; done
ip route add default via 172.18.0.1
ip route add 10.244.2.0/24 via 172.18.0.3
ip route add 10.244.3.0/24 dev vpn0
ip route add 203.0.113.0/24 dev vpn0
sysctl -qw net.ipv4.ip_forward=1
";

/// The device. It is removed when this value is dropped.
pub struct Tunnel<'a> {
    datapath: &'a Datapath,
    ifindex: u32,
    device: File,
    socket: OwnedFd,
    _namespace: Namespace,
}

impl<'a> Tunnel<'a> {
    /// Creates the device, attaches the programs to it, and writes its rows.
    pub fn create(datapath: &'a Datapath) -> Tunnel<'a> {
        let namespace = Namespace::create("tunnel");
        let device = namespace.run(open_device);
        namespace.shell(SETUP);
        let (ifindex, socket) = namespace.run(|| (attach(datapath), packet_socket()));
        datapath.device(ifindex, ADDRESS, device_flags::MANAGED | device_flags::NO_ETHERNET);
        datapath.network(ADDRESS, 32, network_kind::THIS_NODE);
        datapath.network(REMOTE_POD, 24, network_kind::REMOTE_PODS);
        Tunnel { datapath, ifindex, device, socket, _namespace: namespace }
    }

    /// Asserts that exactly these counters move, each by this packet, when the device receives it.
    #[track_caller]
    pub fn receives(&self, packet: &Packet, labels: &[&'static str]) {
        let (before, bytes) = (self.datapath.counters(), packet.ip_bytes());
        (&self.device).write_all(&bytes).unwrap();
        self.assert_counted(&before, &bytes, labels);
    }

    /// Asserts that exactly these counters move, each by this packet, when the node's stack sends it by the
    /// device.
    #[track_caller]
    pub fn sends(&self, packet: &Packet, labels: &[&'static str]) {
        let (before, bytes) = (self.datapath.counters(), packet.ip_bytes());
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: self.ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: packet and address are valid for the lengths given during the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        let error = Error::last_os_error();
        // ENOBUFS: a program has dropped the packet.
        assert!(sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS), "{error}");
        self.assert_counted(&before, &bytes, labels);
    }

    #[track_caller]
    fn assert_counted(&self, before: &Counters, bytes: &[u8], labels: &[&'static str]) {
        let counter = Counter { packets: 1, bytes: (ETH_LEN + bytes.len()) as u64 };
        let expected: Counters = labels.iter().map(|label| (*label, counter)).collect();
        assert_eq!(counters::difference(before, &self.datapath.counters()), expected);
    }
}

/// Creates the device in the namespace of the thread. It exists until the file is closed.
fn open_device() -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all-zero is a valid value of this C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.to_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    // SAFETY: the descriptor is open, and the request is initialized.
    let created = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &request) };
    assert_eq!(created, 0, "{NAME:?}: {}", Error::last_os_error());
    file
}

/// Attaches the programs to the device in the namespace of the thread; returns its interface index.
fn attach(datapath: &Datapath) -> u32 {
    // SAFETY: the name is a valid C string.
    let ifindex = unsafe { libc::if_nametoindex(NAME.as_ptr()) };
    let mut netlink = Netlink::open().unwrap();
    for (direction, name) in
        [(Direction::Ingress, program::FROM_L3DEV), (Direction::Egress, program::TO_L3DEV)]
    {
        let prog = datapath.fd(name);
        attach_device_by(&mut netlink, ifindex, direction, prog, Mechanism::Clsact)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    ifindex
}

/// A socket that sends packets from their IP header on, and receives none.
fn packet_socket() -> OwnedFd {
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "packet socket: {}", Error::last_os_error());
    // SAFETY: the descriptor is open and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
