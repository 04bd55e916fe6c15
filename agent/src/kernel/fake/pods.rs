//! Leases and paths of the pods.

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use sluice_pod::device::Link;
use sluice_pod::inventory::HostLinks;
use sluice_pod::lease::{BootInstant, Entry, Lease};
use sluice_pod::{HostPath, Kept, PathPart, Reclaimed};

use super::FakeKernel;
use crate::kernel::{
    ClosedSockets, KernelError, LeaseLock, LockedLeases, Pods, Result, UdpSockets,
};

impl Pods for FakeKernel {
    fn leases(&mut self) -> Result<Vec<Lease>> {
        self.check("read leases")?;
        Ok(self.leases.clone())
    }

    fn lock_leases(&mut self) -> Result<LockedLeases> {
        self.check("lock leases")?;
        if self.is_locked() {
            let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            return Err(KernelError::io("lock leases", source));
        }
        self.interrupt("lock leases");
        let lock = LeaseLock::new(Rc::clone(&self.lease_lock));
        Ok(LockedLeases { leases: self.leases.clone(), _lock: lock })
    }

    fn lock_lease(&mut self, lease: &Lease) -> Result<Option<LeaseLock>> {
        let locked = self.lock_leases()?;
        Ok(locked.leases.contains(lease).then_some(locked._lock))
    }

    fn mend_leases(&mut self) -> Result<Vec<Kept>> {
        self.check("mend leases")?;
        let kept = |entry: &Entry| {
            let Entry { address, host_ifname, .. } = entry.clone();
            Kept::HasDevice { address, host_ifname }
        };
        Ok(self.damaged.iter().map(kept).collect())
    }

    fn release_leases(&mut self, leases: &[Lease]) -> Result<Reclaimed> {
        let locked = self.lock_leases()?;
        let present = &locked.leases;
        let links = HostLinks::from_links(self.host.links.clone());
        let mut released = Vec::new();
        for lease in leases.iter().filter(|lease| present.contains(lease)) {
            if links.is_live(lease, &self.boot_instant, |lease| self.may_exist(lease)) {
                continue;
            }
            self.change(format!("release lease {}", lease.address))?;
            released.push(lease.clone());
        }
        self.leases.retain(|lease| !released.contains(lease));
        Ok(Reclaimed { released, kept: Vec::new() })
    }

    fn netns_may_exist(&mut self, lease: &Lease) -> bool {
        self.may_exist(lease)
    }

    fn netns_exists(&mut self, lease: &Lease) -> bool {
        self.netns.contains(&lease.netns)
    }

    fn boot_instant(&mut self) -> Result<BootInstant> {
        Ok(self.boot_instant.clone())
    }

    fn host_paths(&mut self, leases: &[&Lease]) -> Result<Vec<Option<HostPath>>> {
        self.check("list paths")?;
        Ok(leases.iter().map(|lease| self.path_of(lease)).collect())
    }

    fn host_path(&mut self, lease: &Lease) -> Result<Option<HostPath>> {
        self.check(&format!("read path {}", lease.address))?;
        self.paths_read += 1;
        Ok(self.path_of(lease))
    }

    fn restore_path(&mut self, lease: &Lease, link: &Link, part: PathPart) -> Result<()> {
        self.change(format!("restore {} {}", part.label(), lease.address))?;
        if let Some(missing) = self.missing.get_mut(&link.name) {
            missing.remove(&part);
        }
        let links = self.host.links.iter_mut().filter(|l| l.index == link.index);
        links.for_each(|link| link.up |= part == PathPart::Device);
        Ok(())
    }

    fn old_mtus(&mut self) -> Result<BTreeSet<u32>> {
        self.check("read former MTUs")?;
        Ok(self.old_mtus.clone())
    }

    fn store_old_mtus(&mut self, mtus: &BTreeSet<u32>) -> Result<()> {
        self.check("store former MTUs")?;
        self.old_mtus.clone_from(mtus);
        Ok(())
    }

    fn set_pod_mtu(&mut self, lease: &Lease, mtu: u32) -> Result<bool> {
        self.change(format!("set MTU {} {mtu}", lease.host_ifname))?;
        let link = self.host.links.iter_mut().find(|link| link.name == lease.host_ifname);
        Ok(link.map(|link| link.mtu = mtu).is_some())
    }

    fn close_udp_sockets(&mut self, sockets: &UdpSockets, pods: &[Lease]) -> Result<()> {
        let cookies: Vec<String> = sockets.keys().map(ToString::to_string).collect();
        self.change(format!("close UDP sockets {} pods {}", cookies.join(" "), pods.len()))?;
        let all = ClosedSockets { sockets: sockets.len(), ..ClosedSockets::default() };
        self.closings.push_back(Some(all));
        Ok(())
    }

    fn closed_udp_sockets(&mut self) -> Option<ClosedSockets> {
        self.closings.pop_front().unwrap_or_default()
    }
}

impl FakeKernel {
    /// Whether a lock of the leases exists. As a lock of a file, it also excludes its own process.
    pub(super) fn is_locked(&self) -> bool {
        Rc::strong_count(&self.lease_lock) > 1
    }

    fn may_exist(&self, lease: &Lease) -> bool {
        self.netns.contains(&lease.netns) || self.hidden_netns.contains(&lease.netns)
    }

    fn path_of(&self, lease: &Lease) -> Option<HostPath> {
        let link = self.host.links.iter().find(|link| link.name == lease.host_ifname)?.clone();
        let mut missing = self.missing.get(&link.name).cloned().unwrap_or_default();
        if !link.up {
            missing.insert(PathPart::Device);
        }
        Some(HostPath { link, missing })
    }
}
