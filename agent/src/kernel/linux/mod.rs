//! The node itself: bpf(2) and rtnetlink through `sluice-bpf`, leases through `sluice-pod`, files.
//!
//! Requests use the blocking netlink client of `sluice-bpf`, which repeats interrupted dumps;
//! [`monitor`] receives notifications. Programs are loaded by aya ([`load`]), attached and never detached without a
//! replacement: pods keep their network while no agent runs.

pub mod cni_files;
pub mod events;
mod grow;
pub mod heap;
pub mod hooks;
pub mod load;
pub mod maps;
pub mod migration;
pub mod monitor;
pub mod network;
pub mod other_networks;
mod parallel;
pub mod pins;
pub mod pods;
pub mod probe;
#[cfg(feature = "program-log")]
pub mod program_log;
mod record;
pub mod routes;
mod shape;
pub mod sizes;
pub mod sysctl;
pub mod udp_sockets;

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;
use sluice_abi::Counter;
use sluice_bpf::Map;
use sluice_bpf::attach::{XdpAttachment, XdpMode};
use sluice_bpf::netlink::Netlink;
use sluice_core::diff::Capacity;
use sluice_core::{Rows, TableSpec, Write};
use sluice_pod::device::{self, Link, LinkLayer};
use sluice_pod::identity;
use sluice_pod::lease::{BootInstant, Lease, Store};
use sluice_pod::{
    HostPath, Kept, PathPart, Reclaimed, host_path, host_paths, remove_veth, restore,
};

pub use self::cni_files::InstallError;
use self::cni_files::Staged;
pub use self::hooks::{CgroupError, HookError};
use self::sizes::Sizes;
pub use self::sysctl::SysctlError;
use super::counters;
use super::{
    ClosedSockets, CniFiles, Count, Grown, HandedOver, HealthCheck, HealthChecks, Hooks, Hop,
    KernelError, LeaseLock, LockedLeases, Maps, Network, PodPrograms, Pods, Result, Routes,
    UdpSockets,
};
use crate::host::HostState;
use crate::signals::Stop;

/// Files and directories that the agent works on.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Directory of the installed CNI binary, if it is installed at all.
    pub cni_bin_dir: Option<PathBuf>,
    /// Directory of the CNI configuration, if it is written at all.
    pub cni_conf_dir: Option<PathBuf>,
    /// The CNI binary to install.
    pub cni_binary: PathBuf,
    /// Leases of the CNI binary.
    pub cni_state_dir: PathBuf,
    /// Root of the cgroup v2 hierarchy.
    pub cgroup_root: PathBuf,
    /// What is kept until the next boot.
    pub run_dir: PathBuf,
}

/// The node that the agent runs on. The programs must be loaded and pinned.
#[derive(Debug)]
pub struct LinuxKernel {
    paths: Paths,
    netlink: Netlink,
    tables: maps::Tables,
    counters: Map<u32, Counter>,
    leases: Store,
    known_leases: pods::Known,
    pins: pins::Pins,
    /// With which the maps were loaded.
    sizes: Sizes,
    /// Whether loading has ended, so that the pins belong together.
    pins_are_valid: bool,
    /// Ends loading.
    stop: Stop,
    cni_binary: cni_files::Installer,
    health_checks: Box<dyn HealthChecks>,
    socket_closer: udp_sockets::Closer,
}

impl LinuxKernel {
    /// Opens a netlink socket, the counters and all pins, which were loaded with these sizes. Maps that
    /// grow are loaded until the agent is to stop.
    ///
    /// # Errors
    /// No netlink socket is available, or a pin cannot be opened.
    pub fn open(
        paths: Paths,
        sizes: Sizes,
        stop: Stop,
        health_checks: Box<dyn HealthChecks>,
    ) -> Result<LinuxKernel> {
        Ok(LinuxKernel {
            netlink: Netlink::open()?,
            tables: maps::Tables::default(),
            counters: maps::counters()?,
            leases: Store::new(&paths.cni_state_dir),
            known_leases: pods::Known::default(),
            pins: pins::Pins::open()?,
            sizes,
            pins_are_valid: true,
            stop,
            cni_binary: cni_files::Installer::default(),
            health_checks,
            socket_closer: udp_sockets::Closer::default(),
            paths,
        })
    }
}

impl LinuxKernel {
    /// Writes the CNI binary to disk, which takes a hundred times as long as the switch of the programs:
    /// an ADD of the former binary after the switch writes the rows of its pod to the former maps. A
    /// failure does not delay the switch, which all changes wait for.
    fn stage_cni_binary(&self) -> Option<Staged> {
        let dir = self.paths.cni_bin_dir.as_deref()?;
        let staged = cni_files::stage_binary(&self.paths.cni_binary, dir);
        staged.inspect_err(warn_not_replaced).ok().flatten()
    }
}

fn warn_not_replaced(error: &InstallError) {
    tracing::warn!(
        error = %sluice_bpf::error_chain(error),
        "CNI binary not replaced with the programs: the replacement is retried; pods that the former \
         binary connects until then can lose their first packets"
    );
}

impl HealthChecks for LinuxKernel {
    fn health_check_ports(&mut self) -> BTreeSet<u16> {
        self.health_checks.health_check_ports()
    }

    fn serve_health_check(&mut self, port: u16, check: &HealthCheck) -> Result<()> {
        self.health_checks.serve_health_check(port, check)
    }

    fn close_health_check(&mut self, port: u16) {
        self.health_checks.close_health_check(port);
    }
}

/// Detaches all programs from all devices, and deletes the pods' devices and the agent's routes, for
/// the removal of Sluice from a node. A pod's device would keep a route to an address that another
/// CNI plugin can give to a pod of its own. Returns the number of removed objects.
///
/// # Errors
/// Devices or routes cannot be listed, or one of them cannot be deleted.
pub fn clear_network() -> Result<usize> {
    let mut netlink = Netlink::open()?;
    let mut removed = 0;
    for link in device::links(&mut netlink)? {
        removed += hooks::detach_all(&mut netlink, link.index)?;
        if identity::is_host_ifname(&link.name) {
            remove_veth(&mut netlink, &link.name)?;
            removed += 1;
        }
    }
    for (dst, hop) in routes::owned(&mut netlink)? {
        routes::delete(&mut netlink, &dst, &hop)?;
        removed += 1;
    }
    Ok(removed)
}

impl Maps for LinuxKernel {
    fn read(&mut self, table: &'static TableSpec) -> Result<Rows> {
        Ok(self.tables.read(table)?)
    }

    fn read_after(
        &mut self,
        table: &'static TableSpec,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows> {
        Ok(self.tables.read_after(table, after, limit)?)
    }

    fn read_keys(&mut self, table: &'static TableSpec, keys: &[u8]) -> Result<Rows> {
        Ok(self.tables.read_keys(table, keys)?)
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        Ok(self.tables.write(write)?)
    }

    fn counters(&mut self) -> Result<Vec<Count>> {
        Ok(counters::read(&self.counters)?)
    }
}

impl Network for LinuxKernel {
    fn host_state(&mut self) -> Result<HostState> {
        Ok(network::host_state(&mut self.netlink)?)
    }

    fn random_key(&mut self) -> Result<[u64; 2]> {
        network::random_key().map_err(KernelError::Random)
    }

    fn links(&mut self) -> Result<Vec<Link>> {
        Ok(device::links(&mut self.netlink)?)
    }

    fn routes(&mut self) -> Result<Routes> {
        Ok(routes::owned(&mut self.netlink)?)
    }

    fn put_route(&mut self, dst: &IpNet, hop: &Hop) -> Result<()> {
        Ok(routes::put(&mut self.netlink, dst, hop)?)
    }

    fn delete_route(&mut self, dst: &IpNet, hop: &Hop) -> Result<()> {
        Ok(routes::delete(&mut self.netlink, dst, hop)?)
    }

    fn enable_forwarding(&mut self, device: &str) -> Result<bool> {
        Ok(sysctl::enable_forwarding(Some(device))?)
    }
}

impl Hooks for LinuxKernel {
    fn attach_uplink(&mut self, ifindex: u32, layer: LinkLayer) -> Result<bool> {
        hooks::attach_uplink(&mut self.netlink, ifindex, layer)
    }

    fn detach_uplink(&mut self, ifindex: u32) -> Result<()> {
        hooks::detach_uplink(&mut self.netlink, ifindex).map(drop)
    }

    fn attach_xdp(&mut self, ifindex: u32, mode: XdpMode) -> Result<XdpAttachment> {
        hooks::attach_device_xdp(&mut self.netlink, ifindex, mode)
    }

    fn detach_xdp(&mut self, ifindex: u32) -> Result<bool> {
        Ok(hooks::detach_device_xdp(&mut self.netlink, ifindex)? > 0)
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<PodPrograms> {
        hooks::attach_pod(&mut self.netlink, ifindex)
    }

    fn attach_sockets(&mut self) -> Result<usize> {
        hooks::attach_sockets(&self.paths.cgroup_root)
    }

    fn hand_over(&mut self) -> Result<HandedOver> {
        self.load_present()?;
        let staged = match migration::active_other()? {
            Some(_) => self.stage_cni_binary(),
            None => None,
        };
        let done = migration::hand_over(|| match staged.map(Staged::install) {
            Some(Ok(())) => tracing::info!("CNI binary replaced with the programs"),
            Some(Err(error)) => warn_not_replaced(&error),
            None => {}
        });
        // Also after a failure: programs may be pinned that were not before.
        self.pins = pins::Pins::open()?;
        Ok(done?)
    }

    fn grow(&mut self, least: &Capacity) -> Result<Grown> {
        self.load_larger(*least)
    }

    fn restore_pins(&mut self) -> Result<usize> {
        self.pins.restore()
    }

    fn stale_pins(&mut self) -> Result<Vec<String>> {
        pins::stale().map_err(|e| KernelError::io("list the pins", e))
    }

    fn remove_stale_pins(&mut self) -> Result<Vec<String>> {
        pins::remove_stale().map_err(|(path, e)| {
            KernelError::io(format!("remove the pins below {}", path.display()), e)
        })
    }
}

impl Pods for LinuxKernel {
    fn leases(&mut self) -> Result<Vec<Lease>> {
        pods::leases(&self.leases, &mut self.known_leases, &mut self.netlink)
    }

    fn lock_leases(&mut self) -> Result<LockedLeases> {
        pods::lock_leases(&self.leases, &mut self.known_leases, &mut self.netlink)
    }

    fn lock_lease(&mut self, lease: &Lease) -> Result<Option<LeaseLock>> {
        pods::lock_lease(&self.leases, lease)
    }

    fn mend_leases(&mut self) -> Result<Vec<Kept>> {
        pods::mend_leases(&self.leases, &mut self.known_leases, &mut self.netlink)
    }

    fn release_leases(&mut self, leases: &[Lease]) -> Result<Reclaimed> {
        pods::release(&self.leases, &mut self.netlink, leases)
    }

    fn netns_may_exist(&mut self, lease: &Lease) -> bool {
        pods::netns_may_exist(lease)
    }

    fn netns_exists(&mut self, lease: &Lease) -> bool {
        pods::netns_exists(lease)
    }

    fn boot_instant(&mut self) -> Result<BootInstant> {
        pods::now()
    }

    fn host_paths(&mut self, leases: &[&Lease]) -> Result<Vec<Option<HostPath>>> {
        Ok(host_paths(&mut self.netlink, leases, sysctl::root())?)
    }

    fn host_path(&mut self, lease: &Lease) -> Result<Option<HostPath>> {
        Ok(host_path(&mut self.netlink, lease, sysctl::root())?)
    }

    fn restore_path(&mut self, lease: &Lease, link: &Link, part: PathPart) -> Result<()> {
        Ok(restore(&mut self.netlink, lease, link, part, sysctl::root())?)
    }

    fn old_mtus(&mut self) -> Result<BTreeSet<u32>> {
        pods::old_mtus(&self.paths.run_dir)
    }

    fn store_old_mtus(&mut self, mtus: &BTreeSet<u32>) -> Result<()> {
        pods::store_old_mtus(&self.paths.run_dir, mtus)
    }

    fn set_pod_mtu(&mut self, lease: &Lease, mtu: u32) -> Result<bool> {
        pods::set_mtu(&mut self.netlink, lease, mtu)
    }

    fn close_udp_sockets(&mut self, sockets: &UdpSockets, pods: &[Lease]) -> Result<()> {
        let cookies: BTreeSet<u64> = sockets.values().map(|socket| socket.netns_cookie).collect();
        let has_some =
            |lease: &&Lease| lease.netns_cookie.is_none_or(|cookie| cookies.contains(&cookie));
        let namespaces = pods.iter().filter(has_some).filter_map(pods::namespace_path).collect();
        self.socket_closer
            .start(sockets.clone(), namespaces)
            .map_err(|e| KernelError::io("start a thread that closes UDP sockets", e))
    }

    fn closed_udp_sockets(&mut self) -> Option<ClosedSockets> {
        self.socket_closer.result()
    }
}

impl CniFiles for LinuxKernel {
    fn install_cni_binary(&mut self) -> Result<bool> {
        match &self.paths.cni_bin_dir {
            Some(dir) => Ok(self.cni_binary.install(&self.paths.cni_binary, dir)?),
            None => Ok(false),
        }
    }

    fn write_cni_config(&mut self, text: &str) -> Result<bool> {
        match &self.paths.cni_conf_dir {
            Some(dir) => Ok(cni_files::write_config(dir, text)?),
            None => Ok(false),
        }
    }

    fn other_networks(&mut self) -> Vec<String> {
        other_networks::problems(self.paths.cni_conf_dir.as_deref())
    }
}
