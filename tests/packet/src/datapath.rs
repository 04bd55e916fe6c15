//! One load of the eBPF object: its programs, and maps of its own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use aya::maps::RingBuf;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use sluice_abi::{DropEvent, FlowEntry, FlowKey, map, program};
use sluice_bpf::{Map, test_run};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::artefacts::{RecordedRun, Recording};
use crate::topology::{self, UPLINK_IFINDEX};
use crate::{Counters, Packet, Run, counters, show};

/// How the object is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the programs may call `bpf_set_retval` (kernel 5.18 and later).
    pub set_retval: bool,
    /// Replaces the LRU maps of new flows by hash maps with this many entries, which refuse entries
    /// when they are full.
    pub new_flows_hash: Option<u32>,
    /// Capacity of the table of confirmed flows.
    pub flows: Option<u32>,
    /// Capacity of the maps of Services.
    pub services: Option<u32>,
    /// Bytes of the ring buffer of drop events.
    pub events: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            set_retval: true,
            new_flows_hash: None,
            flows: None,
            services: None,
            events: None,
        }
    }
}

/// The programs and maps of one test. A tc or XDP program is loaded when it is first used: a test
/// uses a few of them, and verification takes longer than most tests.
pub struct Datapath {
    ebpf: Mutex<Ebpf>,
    programs: BTreeMap<&'static str, OnceLock<OwnedFd>>,
    counters: Map<u32, sluice_abi::Counter>,
    recording: Mutex<Recording>,
    /// Mode of XDP in the rows of devices.
    pub(crate) xdp_flags: u32,
}

/// The eBPF object that the tests load.
///
/// # Panics
/// If it has not been built.
pub fn object() -> Vec<u8> {
    let path = std::env::var_os("SLUICE_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/sluice.o")),
        PathBuf::from,
    );
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: build it with `cargo xtask build`", path.display()))
}

/// Changes the definitions of the tables of new flows in the object from LRU hash to hash, which
/// refuses entries when it is full. The loader can change a map's size, but not its type.
fn new_flows_as_hash(object: &mut [u8]) {
    /// `BPF_MAP_TYPE_LRU_HASH` and `BPF_MAP_TYPE_HASH`.
    const LRU_HASH: u32 = 9;
    const HASH: u32 = 1;
    for max in [map::FLOWS_NEW_POD_MAX, map::FLOWS_NEW_WIRE_MAX] {
        let definition = |map_type: u32| {
            let words = [map_type, size_of::<FlowKey>() as u32, size_of::<FlowEntry>() as u32];
            [words.map(u32::to_ne_bytes).concat(), max.to_ne_bytes().to_vec()].concat()
        };
        let lru = definition(LRU_HASH);
        let places: Vec<usize> = object
            .windows(lru.len())
            .enumerate()
            .filter(|(_, bytes)| *bytes == lru)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(places.len(), 1, "definitions of a table with {max} entries in the object");
        object[places[0]..places[0] + lru.len()].copy_from_slice(&definition(HASH));
    }
}

impl Datapath {
    /// Loads the object with empty maps.
    pub fn load() -> Datapath {
        Datapath::load_with(Options::default())
    }

    /// Loads the object with empty maps and these options.
    pub fn load_with(options: Options) -> Datapath {
        topology::create_devices();
        let mut object = object();
        let set_retval = u8::from(options.set_retval);
        let mut loader = EbpfLoader::new();
        // The programs have no relocations against kernel types, so the kernel's BTF is not read.
        loader.btf(None).override_global("HAVE_SET_RETVAL", &set_retval, false);
        if let Some(entries) = options.new_flows_hash {
            new_flows_as_hash(&mut object);
            loader.map_max_entries(map::FLOWS_NEW_POD, entries);
            loader.map_max_entries(map::FLOWS_NEW_WIRE, entries);
        }
        if let Some(entries) = options.flows {
            loader.map_max_entries(map::FLOWS, entries);
        }
        if let Some(entries) = options.services {
            for name in [map::FRONTENDS, map::SERVICES, map::SLOTS, map::BACKENDS] {
                loader.map_max_entries(name, entries);
            }
        }
        if let Some(bytes) = options.events {
            loader.map_max_entries(map::EVENTS, bytes);
        }
        let ebpf = loader.load(&object).unwrap_or_else(|e| panic!("{e:?}"));
        let counters = open(&ebpf, map::COUNTERS);
        let names = program::TC.into_iter().chain([program::XDP_NETDEV]);
        let programs = names.map(|name| (name, OnceLock::new())).collect();
        let (ebpf, recording) = (Mutex::new(ebpf), Mutex::default());
        Datapath { ebpf, programs, counters, recording, xdp_flags: 0 }
    }

    fn object(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last runs, for the artefacts of a failed test.
    pub(crate) fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loaded object.
    pub(crate) fn object_mut(&mut self) -> &mut Ebpf {
        self.ebpf.get_mut().expect("the lock is not poisoned")
    }

    /// Loads the socket programs too.
    pub fn load_socket_programs(&mut self) {
        for (name, program) in self.object_mut().programs_mut() {
            let loaded = match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                _ => continue,
            };
            loaded.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    /// Loads the object and fills the maps with the node of `topology.rs`.
    pub fn node() -> Datapath {
        let datapath = Datapath::load();
        datapath.configure_node();
        datapath
    }

    /// A map by its name in the ABI.
    pub fn map<K, V>(&self, name: &str) -> Map<K, V>
    where
        K: FromBytes + IntoBytes + Immutable,
        V: FromBytes + IntoBytes + Immutable,
    {
        open(&self.object(), name)
    }

    /// Whether the object declares a map of this name.
    pub fn has_map(&self, name: &str) -> bool {
        self.object().map(name).is_some()
    }

    /// Whether a map is an array: its entries are found by their position, without a search.
    pub fn is_array(&self, name: &str) -> bool {
        let object = self.object();
        let map = object.map(name).unwrap_or_else(|| panic!("the object has no map {name}"));
        matches!(map, aya::maps::Map::Array(_) | aya::maps::Map::PerCpuArray(_))
    }

    /// The drop events since the last call.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let map = self.object_mut().map_mut(map::EVENTS).expect("the object has a ring buffer");
        let mut ring = RingBuf::try_from(map).unwrap();
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.push(DropEvent::read_from_bytes(&record).unwrap());
        }
        events
    }

    /// The main entries of all flows.
    pub fn flows(&self) -> Vec<FlowEntry> {
        map::FLOW_TABLES.into_iter().flat_map(|name| self.flows_in(name)).collect()
    }

    /// The main entries of one table.
    pub fn flows_in(&self, table: &str) -> Vec<FlowEntry> {
        let entries = self.map::<FlowKey, FlowEntry>(table).entries().unwrap();
        entries.into_iter().map(|(_, entry)| entry).filter(|entry| !entry.is_alias()).collect()
    }

    /// A packet that a pod sends: ingress of the host device `ifindex`.
    pub fn from_pod(&self, ifindex: u32, packet: &Packet) -> Run {
        self.run(program::FROM_POD, &packet.bytes_from_pod(ifindex), ifindex)
    }

    /// A packet that the node's stack sends to a pod: egress of the host device `ifindex`.
    pub fn to_pod(&self, ifindex: u32, packet: &Packet) -> Run {
        self.run(program::TO_POD, &packet.bytes(), ifindex)
    }

    /// A packet that the uplink receives.
    pub fn from_netdev(&self, packet: &Packet) -> Run {
        self.run(program::FROM_NETDEV, &packet.bytes_from_wire(), UPLINK_IFINDEX)
    }

    /// A packet that the node's stack sends to the uplink.
    pub fn to_netdev(&self, packet: &Packet) -> Run {
        self.run(program::TO_NETDEV, &packet.bytes(), UPLINK_IFINDEX)
    }

    /// Runs one program over a frame.
    pub fn run(&self, name: &str, frame: &[u8], ifindex: u32) -> Run {
        self.run_gso(name, frame, ifindex, 0)
    }

    /// Runs one program over a frame that the kernel cuts into segments of `gso_size` payload bytes
    /// (0: not at all).
    pub fn run_gso(&self, name: &str, frame: &[u8], ifindex: u32, gso_size: u32) -> Run {
        self.try_run(name, frame, ifindex, gso_size)
            .unwrap_or_else(|e| panic!("{name}: {e} for {}", show(frame)))
    }

    /// Runs one program over a frame that the device `received_by` has received and the stack forwards.
    pub fn run_received(&self, name: &str, frame: &[u8], ifindex: u32, received_by: u32) -> Run {
        let before = self.counters();
        let ran = test_run::run_received(self.fd(name), frame, ifindex, received_by).unwrap();
        let run = Run::new(frame.to_vec(), ran, counters::difference(&before, &self.counters()));
        self.record(name, &run, RecordedRun { ifindex, received_by, ..RecordedRun::default() });
        run
    }

    /// As [`Datapath::run_gso`].
    ///
    /// # Errors
    /// The kernel refuses the test run: EINVAL for a frame that is too short.
    pub fn try_run(
        &self,
        name: &str,
        frame: &[u8],
        ifindex: u32,
        gso_size: u32,
    ) -> std::io::Result<Run> {
        let run = self.try_runs(name, frame, (ifindex, gso_size), 1)?;
        self.record(name, &run, RecordedRun { ifindex, gso_size, ..RecordedRun::default() });
        Ok(run)
    }

    fn record(&self, name: &str, run: &Run, context: RecordedRun) {
        self.recording().push(RecordedRun {
            program: name.to_owned(),
            frame: run.frame.clone(),
            action: format!("{:?}", run.action),
            data: run.data.clone(),
            counters: run.counters.clone(),
            ..context
        });
    }

    fn try_runs(
        &self,
        name: &str,
        frame: &[u8],
        (ifindex, gso_size): (u32, u32),
        times: u32,
    ) -> std::io::Result<Run> {
        let before = self.counters();
        let ran = test_run::run(self.fd(name), frame, ifindex, gso_size, times)?;
        let added = counters::difference(&before, &self.counters());
        Ok(Run::new(frame.to_vec(), ran, added))
    }

    /// Runs one program several times over the same frame, which it leaves as it is, in one call.
    pub fn run_times(&self, name: &str, frame: &[u8], ifindex: u32, times: u32) -> Run {
        self.try_runs(name, frame, (ifindex, 0), times)
            .unwrap_or_else(|e| panic!("{name}: {e} for {}", show(frame)))
    }

    /// Median duration of 2,000 runs of `name`, each over a fresh copy of `frame`.
    pub fn time(&self, name: &str, frame: &[u8], ifindex: u32) -> std::time::Duration {
        let mut times: Vec<_> = (0..2_000)
            .map(|_| test_run::run(self.fd(name), frame, ifindex, 0, 1).unwrap().time)
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Verified instructions (`None` on kernels that do not report them, before 5.16) and
    /// translated bytes of a program.
    pub fn size(&self, name: &str) -> (Option<u32>, u32) {
        if self.programs.contains_key(name) {
            self.fd(name);
        }
        let object = self.object();
        let program = object.program(name).unwrap_or_else(|| panic!("no program {name}"));
        let info = program.info().unwrap();
        let verified = info.verified_instruction_count().filter(|count| *count > 0);
        (verified, info.size_translated().expect("the kernel reports a program's size"))
    }

    /// A program by name, to attach it.
    pub fn program_mut(&mut self, name: &str) -> &mut Program {
        let object = self.object_mut();
        object.program_mut(name).unwrap_or_else(|| panic!("the object has no program {name}"))
    }

    /// A tc or XDP program by name.
    pub fn fd(&self, name: &str) -> BorrowedFd<'_> {
        let loaded = self.programs.get(name);
        let loaded = loaded.unwrap_or_else(|| panic!("{name} is not a tc or XDP program"));
        loaded.get_or_init(|| self.load_program(name)).as_fd()
    }

    /// Loads a tc or XDP program before it is used: the first packet does not wait for the verifier.
    pub fn prepare(&self, name: &str) {
        self.fd(name);
    }

    fn load_program(&self, name: &str) -> OwnedFd {
        let mut object = self.object();
        let loaded = match object.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load().and_then(|()| program.fd()),
            Some(Program::Xdp(program)) => program.load().and_then(|()| program.fd()),
            _ => panic!("the object has no tc or XDP program {name}"),
        };
        let fd = loaded.unwrap_or_else(|e| panic!("{name}: {e}"));
        fd.as_fd().try_clone_to_owned().unwrap()
    }

    /// Fills a program array, [`map::SUCCESSORS`] or [`map::PREDECESSORS`], with the tc programs of `other`.
    pub fn set_programs(&self, array: &str, other: &Datapath) {
        let programs = self.map::<u32, u32>(array);
        for (index, name) in (0u32..).zip(program::TC) {
            programs.update(&index, &(other.fd(name).as_raw_fd() as u32)).unwrap();
        }
    }

    /// All counters that are not zero.
    pub fn counters(&self) -> Counters {
        counters::read(&self.counters)
    }

    /// Dropped packets without an event, by the label of the reason.
    pub fn lost_events(&self) -> Counters {
        counters::read_lost(&self.counters)
    }
}

fn open<K, V>(ebpf: &Ebpf, name: &str) -> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    let map = ebpf.map(name).unwrap_or_else(|| panic!("the object has no map {name}"));
    let fd = match map {
        aya::maps::Map::Array(m)
        | aya::maps::Map::PerCpuArray(m)
        | aya::maps::Map::HashMap(m)
        | aya::maps::Map::LruHashMap(m)
        | aya::maps::Map::LpmTrie(m)
        | aya::maps::Map::ProgramArray(m)
        | aya::maps::Map::RingBuf(m) => m.fd().as_fd().try_clone_to_owned().unwrap(),
        other => panic!("{name} is a {other:?}"),
    };
    Map::from_fd(fd).unwrap()
}
