//! One load of the object, with maps of its own, and the words in which tests speak of it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::maps::RingBuf;
use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use sluice_abi::{
    Addr, Backend, Counter, DropEvent, DropReason, FlowEntry, FlowKey, Frontend, FrontendKey,
    LocalPod, Network, NetworkKey, NodeConfig, Outcome, PortBe, map, network_kind, node_flags,
    program,
};
use sluice_bpf::Map;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::table::{CLIENT, CLIENT_IFINDEX, GATEWAY, NODE, OTHER_NODE, SERVER, SERVER_IFINDEX, v4};
use crate::uplink::uplink_ifindex;
use crate::{Packet, show};
use sluice_bpf::test_run::{self, Action, Ran};

/// The programs and maps of one test.
pub struct Kernel {
    ebpf: Ebpf,
}

/// What one packet did.
#[derive(Debug)]
pub struct Seen {
    /// Verdict and bytes.
    pub ran: Ran,
    /// Counters that moved: labels of drop reasons and outcomes, with how often.
    pub counted: Vec<(&'static str, u64)>,
}

impl Seen {
    /// The packet afterwards, its lengths and checksums proven.
    pub fn packet(&self) -> Packet {
        Packet::read(&self.ran.data)
            .unwrap_or_else(|e| panic!("{e} is wrong in {}", show(&self.ran.data)))
    }

    /// Asserts that the packet was dropped for exactly this reason.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!(self.ran.action, Action::Drop, "{:?}", self.counted);
        assert!(self.counted.contains(&(reason.label(), 1)), "{:?}", self.counted);
    }

    /// Asserts that an outcome was counted once.
    #[track_caller]
    pub fn outcome(&self, outcome: Outcome) -> &Seen {
        assert!(
            self.counted.contains(&(outcome.label(), 1)),
            "{:?}, {:?}",
            self.counted,
            self.ran.action
        );
        self
    }
}

fn object() -> Vec<u8> {
    let path = std::env::var_os("SLUICE_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/sluice.o")),
        PathBuf::from,
    );
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: build it by `cargo xtask build`", path.display()))
}

impl Kernel {
    /// Loads every program; the maps are empty.
    pub fn empty() -> Kernel {
        Kernel::with_set_retval(true)
    }

    /// The same as on a kernel with, or without, `bpf_set_retval`.
    pub fn with_set_retval(have: bool) -> Kernel {
        let have_set_retval = u8::from(have);
        let mut ebpf = EbpfLoader::new()
            .override_global("HAVE_SET_RETVAL", &have_set_retval, false)
            .load(&object())
            .unwrap_or_else(|e| panic!("{e:?}"));
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(p) => p.load(),
                Program::CgroupSockAddr(p) => p.load(),
                Program::Xdp(p) => p.load(),
                other => panic!("{name} has the type {:?}", other.prog_type()),
            }
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        Kernel { ebpf }
    }

    /// The world that `table.rs` draws, ready to be used.
    pub fn world() -> Kernel {
        let kernel = Kernel::empty();
        kernel.map::<u32, NodeConfig>(map::NODE_CONFIG).update(&0, &node_config()).unwrap();
        kernel.endpoint(CLIENT, CLIENT_IFINDEX);
        kernel.endpoint(SERVER, SERVER_IFINDEX);
        for (prefix, len, kind) in [
            ([10, 244, 1, 0], 24, network_kind::LOCAL_PODS),
            ([10, 244, 2, 0], 24, network_kind::REMOTE_PODS),
            ([10, 96, 0, 0], 16, network_kind::SERVICES),
            (NODE, 32, network_kind::THIS_NODE),
            (GATEWAY, 32, network_kind::THIS_NODE),
            (OTHER_NODE, 32, network_kind::OTHER_NODE),
        ] {
            kernel.network(prefix, len, kind);
        }
        kernel
    }

    /// A map by its name in the ABI.
    pub fn map<K, V>(&self, name: &str) -> Map<K, V>
    where
        K: FromBytes + IntoBytes + Immutable,
        V: FromBytes + IntoBytes + Immutable,
    {
        let map = self.ebpf.map(name).unwrap_or_else(|| panic!("the object has no map {name}"));
        let fd = match map {
            aya::maps::Map::Array(m)
            | aya::maps::Map::PerCpuArray(m)
            | aya::maps::Map::HashMap(m)
            | aya::maps::Map::LruHashMap(m)
            | aya::maps::Map::LpmTrie(m)
            | aya::maps::Map::RingBuf(m) => m.fd().as_fd().try_clone_to_owned().unwrap(),
            other => panic!("{name} is a {other:?}"),
        };
        Map::from_fd(fd).unwrap()
    }

    /// Makes a pod of this node known.
    pub fn endpoint(&self, address: [u8; 4], ifindex: u32) {
        let endpoint = LocalPod {
            ifindex,
            pod_mac: [2, 0, 0, 0, 1, address[3]],
            host_mac: [2, 0, 0, 0, 1, 0xee],
        };
        self.map(map::LOCAL_PODS).update(&v4(address), &endpoint).unwrap();
    }

    /// Makes a network known; `len` as people write it for IPv4.
    pub fn network(&self, address: [u8; 4], len: u32, kind: u32) {
        let key = NetworkKey { prefix_len: 96 + len, addr: v4(address) };
        self.map(map::NETWORKS).update(&key, &Network { kind }).unwrap();
    }

    /// Makes a Service port with these backends known, and the wildcard of its address. Backend ids
    /// are `service * 100 + 1` onwards, slots start at `service * 100`.
    pub fn service(
        &self,
        service: u32,
        (vip, port, proto): ([u8; 4], u16, u8),
        backends: &[([u8; 4], u16)],
    ) {
        let offset = service * 100;
        for (n, &(address, target)) in backends.iter().enumerate() {
            let id = offset + 1 + n as u32;
            let backend = Backend { addr: v4(address), port: PortBe::new(target), proto, pad: 0 };
            self.map(map::BACKENDS).update(&id, &backend).unwrap();
            self.map(map::SLOTS).update(&(offset + n as u32), &id).unwrap();
        }
        let frontend = Frontend {
            service,
            slots_offset: offset,
            slots_len: backends.len() as u32,
            ..Frontend::default()
        };
        self.frontend((vip, port, proto), frontend);
        let wildcard = Frontend {
            service,
            flags: sluice_abi::frontend_flags::WILDCARD,
            ..Frontend::default()
        };
        self.frontend((vip, 0, 0), wildcard);
    }

    /// Writes one frontend as it is.
    pub fn frontend(&self, (vip, port, proto): ([u8; 4], u16, u8), frontend: Frontend) {
        let key = FrontendKey { addr: v4(vip), port: PortBe::new(port), proto, pad: 0 };
        self.map(map::FRONTENDS).update(&key, &frontend).unwrap();
    }

    /// Changes the range of ports for source translation.
    pub fn snat_ports(&self, min: u16, max: u16) {
        let config = NodeConfig { snat_port_min: min, snat_port_max: max, ..node_config() };
        self.map(map::NODE_CONFIG).update(&0u32, &config).unwrap();
    }

    /// The drop events since the last call.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let map = self.ebpf.map_mut(map::EVENTS).expect("the object has a ring buffer");
        let mut ring = RingBuf::try_from(map).unwrap();
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.push(DropEvent::read_from_bytes(&record).unwrap());
        }
        events
    }

    /// All conntrack entries.
    pub fn flows(&self) -> Vec<(FlowKey, FlowEntry)> {
        self.map(map::CONNTRACK).entries().unwrap()
    }

    /// What the pod [`CLIENT`] (or whoever owns `ifindex` 1) sends.
    pub fn from_pod(&self, packet: &Packet) -> Seen {
        self.run(program::FROM_POD, &packet.bytes(), CLIENT_IFINDEX)
    }

    /// What the node's stack sends to a pod.
    pub fn to_pod(&self, packet: &Packet) -> Seen {
        self.run(program::TO_POD, &packet.bytes(), CLIENT_IFINDEX)
    }

    /// What comes in from the wire.
    pub fn from_wire(&self, packet: &Packet) -> Seen {
        self.run(program::FROM_NETDEV, &packet.bytes(), uplink_ifindex())
    }

    /// What the node sends to the wire.
    pub fn to_uplink(&self, packet: &Packet) -> Seen {
        self.run(program::TO_NETDEV, &packet.bytes(), uplink_ifindex())
    }

    /// Runs one program over raw bytes.
    pub fn run(&self, name: &str, frame: &[u8], ifindex: u32) -> Seen {
        self.run_segmented(name, frame, ifindex, 0)
    }

    /// The same for a packet that the kernel will cut into segments of `gso_size` payload bytes.
    pub fn run_segmented(&self, name: &str, frame: &[u8], ifindex: u32, gso_size: u32) -> Seen {
        let before = self.counters();
        let ran = test_run::run(self.fd(name), frame, ifindex, gso_size, 1)
            .unwrap_or_else(|e| panic!("{name}: {e} for {}", show(frame)));
        let counted = self
            .counters()
            .iter()
            .zip(before)
            .filter(|(after, before)| after.1 > before.1)
            .map(|(after, before)| (after.0, after.1 - before.1))
            .collect();
        Seen { ran, counted }
    }

    /// Median time of one run of `name` over a fresh copy of `packet`, the kernel's clock included
    /// (some 40 ns: a run over an ARP frame tells).
    pub fn time(&self, name: &str, packet: &Packet, ifindex: u32) -> std::time::Duration {
        let frame = packet.bytes();
        let mut times: Vec<_> = (0..2_000)
            .map(|_| test_run::run(self.fd(name), &frame, ifindex, 0, 1).unwrap().time)
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Verified instructions and translated bytes of a program.
    pub fn size(&self, name: &str) -> (u32, u32) {
        let program = self.ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"));
        let info = program.info().unwrap();
        (info.verified_instruction_count().unwrap_or(0), info.size_translated().unwrap_or(0))
    }

    /// A program by name, to attach it.
    pub fn program_mut(&mut self, name: &str) -> &mut Program {
        self.ebpf.program_mut(name).unwrap_or_else(|| panic!("the object has no program {name}"))
    }

    fn fd(&self, name: &str) -> std::os::fd::BorrowedFd<'_> {
        let program: &SchedClassifier = self
            .ebpf
            .program(name)
            .unwrap_or_else(|| panic!("the object has no program {name}"))
            .try_into()
            .unwrap();
        program.fd().unwrap().as_fd()
    }

    /// All counters that are not zero.
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        self.counters().into_iter().filter(|(_, packets)| *packets > 0).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let map = self.map_per_cpu();
        let read = |index: u32| {
            let all = map.lookup_per_cpu(&index).unwrap().unwrap_or_default();
            all.iter().map(|c| c.packets).sum::<u64>()
        };
        let drops = DropReason::ALL.iter().map(|r| (r.label(), read(r.counter_index())));
        let outcomes = Outcome::ALL.iter().map(|o| (o.label(), read(o.counter_index())));
        drops.chain(outcomes).collect()
    }

    fn map_per_cpu(&self) -> Map<u32, Counter> {
        self.map(map::COUNTERS)
    }
}

/// The node of `table.rs`.
fn node_config() -> NodeConfig {
    NodeConfig {
        addrs: [v4(NODE), Addr::UNSPECIFIED],
        gateways: [v4(GATEWAY), Addr::UNSPECIFIED],
        flags: node_flags::READY | node_flags::MASQUERADE,
        snat_port_min: 61_000,
        snat_port_max: 65_535,
        mtu: 1500,
    }
}
