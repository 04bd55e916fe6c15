//! A node in memory, for tests of reconcilers and loop.
//!
//! Every operation has a label such as `put FRONTENDS 2` or `attach pod 7`. Operations that change
//! something are logged by their label; failures are injected by the beginning of a label.

mod health_checks;
mod hooks;
mod pods;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::{fmt, io};

use ipnet::IpNet;
use sluice_bpf::attach::{XdpAttachment, XdpMode};
use sluice_core::diff::Capacity;
use sluice_core::table::{HostPorts, LocalPods, PodNetnsRows, Pods, Rows, Table, TableSpec, Write};
use sluice_pod::PathPart;
use sluice_pod::device::Link;
use sluice_pod::lease::{BootInstant, Entry, Lease};

use super::{
    ClosedSockets, CniFiles, Count, HealthCheck, Hop, KernelError, Maps, Network, Result, Routes,
};
use crate::host::HostState;

/// Operations that fail: the `skip` first ones whose label begins so succeed, then `times` fail.
#[derive(Debug)]
struct Fault {
    label: String,
    skip: usize,
    times: usize,
    errno: i32,
}

/// What other processes do after the next operation whose label begins so.
struct Interruption {
    label: String,
    act: Box<dyn FnOnce(&mut FakeKernel)>,
}

impl fmt::Debug for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {}", self.label)
    }
}

/// Maps that CNI ADD and DEL write too: their rows change under the lock of the leases.
const NEED_LOCK: [&str; 4] =
    [LocalPods::SPEC.name, Pods::SPEC.name, PodNetnsRows::SPEC.name, HostPorts::SPEC.name];

/// Rows by map.
pub type FakeMaps = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A node in memory.
#[derive(Debug)]
pub struct FakeKernel {
    /// Rows by map.
    pub maps: FakeMaps,
    /// Devices, addresses, default route.
    pub host: HostState,
    /// Routes of the agent.
    pub routes: Routes,
    /// Devices with uplink programs.
    pub uplinks: BTreeSet<u32>,
    /// Devices with the XDP program.
    pub xdp: BTreeMap<u32, XdpMode>,
    /// What the kernel answers to attachments of XDP instead.
    pub xdp_answers: BTreeMap<u32, XdpAttachment>,
    /// Devices with pod programs.
    pub pod_hooks: BTreeSet<u32>,
    /// Devices whose pod programs are attached by tcx.
    pub by_tcx: BTreeSet<u32>,
    /// Missing parts of the paths of pods, by device.
    pub missing: BTreeMap<String, BTreeSet<PathPart>>,
    /// Whether the pins exist.
    pub pins: bool,
    /// Stored former MTUs.
    pub old_mtus: BTreeSet<u32>,
    /// Whether the socket programs are attached.
    pub socket_programs: bool,
    /// Whether forwarding is enabled, by device.
    pub forwarding: BTreeSet<String>,
    /// Leases.
    pub leases: Vec<Lease>,
    /// Damaged leases, whose pods have a device that shows nothing.
    pub damaged: Vec<Entry>,
    /// Paths of network namespaces that exist.
    pub netns: BTreeSet<String>,
    /// Paths of which the agent does not know whether a network namespace exists.
    pub hidden_netns: BTreeSet<String>,
    /// Clock of the leases.
    pub boot_instant: BootInstant,
    /// The installed CNI configuration.
    pub cni_config: Option<String>,
    /// Whether the CNI binary is installed.
    pub cni_binary: bool,
    /// Pins of other versions.
    pub stale_pins: Vec<String>,
    /// Most rows that were read in one step of a comparison.
    pub most_compared: usize,
    /// Problems with other network software.
    pub other_networks: Vec<String>,
    /// Servers of healthCheckNodePorts.
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// Paths of single pods that were read.
    pub paths_read: usize,
    /// What programs read after each row that was written, if it is recorded.
    pub history: Option<Vec<FakeMaps>>,
    /// Capacities of the maps that grow.
    pub capacity: Capacity,
    /// The next answers about the closing of sockets: `None` while it runs. Each closing adds one, success.
    pub closings: VecDeque<Option<ClosedSockets>>,
    /// Whether loading of larger maps ends because the agent is to stop.
    pub stopping: bool,
    /// Maps that were replaced by larger ones, until the hooks are switched.
    former: FakeMaps,
    /// Shared with the locks of the leases that exist.
    lease_lock: Rc<()>,
    log: Vec<String>,
    faults: Vec<Fault>,
    interruptions: Vec<Interruption>,
}

impl FakeKernel {
    /// A node with these devices and addresses on which Sluice never ran.
    pub fn new(host: HostState) -> FakeKernel {
        FakeKernel {
            maps: BTreeMap::new(),
            host,
            routes: Routes::new(),
            uplinks: BTreeSet::new(),
            xdp: BTreeMap::new(),
            xdp_answers: BTreeMap::new(),
            pod_hooks: BTreeSet::new(),
            by_tcx: BTreeSet::new(),
            missing: BTreeMap::new(),
            pins: true,
            old_mtus: BTreeSet::new(),
            socket_programs: false,
            forwarding: BTreeSet::new(),
            leases: Vec::new(),
            damaged: Vec::new(),
            netns: BTreeSet::new(),
            hidden_netns: BTreeSet::new(),
            boot_instant: BootInstant { boot_id: "boot".to_owned(), seconds: 1000 },
            cni_config: None,
            cni_binary: false,
            stale_pins: Vec::new(),
            most_compared: 0,
            other_networks: Vec::new(),
            health_checks: BTreeMap::new(),
            paths_read: 0,
            history: None,
            capacity: Capacity::default(),
            stopping: false,
            former: FakeMaps::new(),
            closings: VecDeque::new(),
            lease_lock: Rc::default(),
            log: Vec::new(),
            faults: Vec::new(),
            interruptions: Vec::new(),
        }
    }

    /// Makes the next `times` operations fail whose label begins so.
    pub fn fail(&mut self, label: &str, times: usize, errno: i32) {
        self.fail_after(label, 0, times, errno);
    }

    /// As [`FakeKernel::fail`], after `skip` operations that succeed.
    pub fn fail_after(&mut self, label: &str, skip: usize, times: usize, errno: i32) {
        self.faults.push(Fault { label: label.to_owned(), skip, times, errno });
    }

    /// Runs `act` once, after the next operation whose label begins so.
    pub fn after(&mut self, label: &str, act: impl FnOnce(&mut FakeKernel) + 'static) {
        self.interruptions.push(Interruption { label: label.to_owned(), act: Box::new(act) });
    }

    fn interrupt(&mut self, label: &str) {
        if let Some(at) = self.interruptions.iter().position(|i| label.starts_with(&i.label)) {
            (self.interruptions.remove(at).act)(self);
        }
    }

    /// Ends all injected failures.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// The changes since the last call, by their labels.
    pub fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// The rows of a map with their types.
    pub fn rows<T: Table>(&self) -> Vec<(T::Key, T::Value)> {
        self.packed(T::SPEC, |_| true).typed::<T>().collect()
    }

    /// Replaces a row as another program would: it is not logged.
    pub fn overwrite<T: Table>(&mut self, key: T::Key, value: T::Value) {
        let rows = Rows::of::<T>([(key, value)]);
        self.maps.entry(T::SPEC.name).or_default().insert(rows.keys, rows.values);
    }

    /// The maps that the attached programs read.
    pub fn used_maps(&self) -> FakeMaps {
        let mut used = self.maps.clone();
        used.extend(self.former.clone());
        used
    }

    fn packed(&self, table: &'static TableSpec, mut pick: impl FnMut(&[u8]) -> bool) -> Rows {
        let mut rows = Rows { table, keys: Vec::new(), values: Vec::new() };
        for (key, value) in self.maps.get(table.name).into_iter().flatten() {
            if pick(key) {
                rows.keys.extend_from_slice(key);
                rows.values.extend_from_slice(value);
            }
        }
        rows
    }

    /// Fails if a failure is injected for this operation.
    fn check(&mut self, label: &str) -> Result<()> {
        for fault in &mut self.faults {
            if !label.starts_with(&fault.label) || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times -= 1;
            let source = io::Error::from_raw_os_error(fault.errno);
            return Err(KernelError::io(label, source));
        }
        Ok(())
    }

    /// Checks an operation and logs it.
    fn change(&mut self, label: String) -> Result<()> {
        self.check(&label)?;
        self.log.push(label);
        Ok(())
    }
}

impl Maps for FakeKernel {
    fn read(&mut self, table: &'static TableSpec) -> Result<Rows> {
        let label = format!("read {}", table.name);
        self.check(&label)?;
        let rows = self.packed(table, |_| true);
        self.interrupt(&label);
        Ok(rows)
    }

    fn read_after(
        &mut self,
        table: &'static TableSpec,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows> {
        self.check(&format!("compare {}", table.name))?;
        let mut left = limit;
        let rows = self.packed(table, |key| {
            let follows = after.is_none_or(|after| key > after) && left > 0;
            left -= usize::from(follows);
            follows
        });
        self.most_compared = self.most_compared.max(rows.len());
        Ok(rows)
    }

    fn read_keys(&mut self, table: &'static TableSpec, keys: &[u8]) -> Result<Rows> {
        self.check(&format!("read {}", table.name))?;
        let mut rows = Rows { table, keys: Vec::new(), values: Vec::new() };
        for key in keys.chunks_exact(table.key_size) {
            if let Some(value) = self.maps.get(table.name).and_then(|map| map.get(key)) {
                rows.keys.extend_from_slice(key);
                rows.values.extend_from_slice(value);
            }
        }
        Ok(rows)
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        let verb = if write.is_delete() { "delete" } else { "put" };
        let name = write.table().name;
        let label = format!("{verb} {name} {}", write.len());
        assert!(
            self.is_locked() || !NEED_LOCK.contains(&name),
            "{label} without the lock of the leases"
        );
        let result = self.check(&label);
        // A batch that fails is written up to its last row.
        let rows = if result.is_ok() { write.len() } else { write.len() - 1 };
        for (key, value) in write.rows().take(rows) {
            let map = self.maps.entry(name).or_default();
            match value {
                Some(value) => map.insert(key.to_vec(), value.to_vec()),
                None => map.remove(key),
            };
            let entries = map.len();
            let capacity = self.capacity.growing().find(|(growing, _)| *growing == name);
            assert!(capacity.is_none_or(|(_, most)| entries <= most as usize), "{label}: full");
            if self.history.is_some() {
                let used = self.used_maps();
                self.history.get_or_insert_default().push(used);
            }
        }
        self.log.push(if result.is_ok() { label } else { format!("failed: {label}") });
        result
    }

    fn counters(&mut self) -> Result<Vec<Count>> {
        self.check("read COUNTERS")?;
        let (kind, label) = (Count::LOST_EVENT.to_owned(), "rate_limit".to_owned());
        Ok(vec![Count { kind, label, packets: 5, bytes: 0 }])
    }
}

/// The key that the fake calls random.
pub const RANDOM_KEY: [u64; 2] = [1, 2];

impl Network for FakeKernel {
    fn host_state(&mut self) -> Result<HostState> {
        self.check("read host state")?;
        Ok(self.host.clone())
    }

    fn random_key(&mut self) -> Result<[u64; 2]> {
        self.check("read random key")?;
        Ok(RANDOM_KEY)
    }

    fn links(&mut self) -> Result<Vec<Link>> {
        self.check("list links")?;
        let links = self.host.links.clone();
        self.interrupt("list links");
        Ok(links)
    }

    fn routes(&mut self) -> Result<Routes> {
        self.check("list routes")?;
        Ok(self.routes.clone())
    }

    fn put_route(&mut self, dst: &IpNet, hop: &Hop) -> Result<()> {
        self.change(match hop {
            Hop::Via(node) => format!("put route {dst} via {node}"),
            Hop::Unreachable => format!("put route {dst} unreachable"),
        })?;
        self.routes.insert(*dst, *hop);
        Ok(())
    }

    fn delete_route(&mut self, dst: &IpNet, _hop: &Hop) -> Result<()> {
        self.change(format!("delete route {dst}"))?;
        self.routes.remove(dst);
        Ok(())
    }

    fn enable_forwarding(&mut self, uplink: &str) -> Result<bool> {
        self.check("enable forwarding")?;
        let changed = self.forwarding.insert(uplink.to_owned());
        self.log.extend(changed.then(|| format!("enable forwarding {uplink}")));
        Ok(changed)
    }
}

impl CniFiles for FakeKernel {
    fn install_cni_binary(&mut self) -> Result<bool> {
        self.check("install CNI binary")?;
        if std::mem::replace(&mut self.cni_binary, true) {
            return Ok(false);
        }
        self.log.push("install CNI binary".to_owned());
        Ok(true)
    }

    fn write_cni_config(&mut self, text: &str) -> Result<bool> {
        self.check("write CNI config")?;
        if self.cni_config.as_deref() == Some(text) {
            return Ok(false);
        }
        self.log.push("write CNI config".to_owned());
        self.cni_config = Some(text.to_owned());
        Ok(true)
    }

    fn other_networks(&mut self) -> Vec<String> {
        self.other_networks.clone()
    }
}
