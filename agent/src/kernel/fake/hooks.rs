//! Programs and pins of the node in memory.

use sluice_abi::{map, node_flags};
use sluice_bpf::attach::{AttachOutcome, XdpAttachment, XdpMode};
use sluice_core::diff::Capacity;
use sluice_core::table::NodeConfigs;
use sluice_pod::device::LinkLayer;

use super::FakeKernel;
use crate::kernel::linux::load::LoadError;
use crate::kernel::linux::migration::MigrationError;
use crate::kernel::{Grown, HandedOver, Hooks, PodPrograms, Result};

impl Hooks for FakeKernel {
    fn attach_uplink(&mut self, ifindex: u32, _layer: LinkLayer) -> Result<bool> {
        let label = format!("attach uplink {ifindex}");
        self.check(&label)?;
        let changed = self.uplinks.insert(ifindex);
        self.log.extend(changed.then_some(label));
        Ok(changed)
    }

    fn detach_uplink(&mut self, ifindex: u32) -> Result<()> {
        self.change(format!("detach uplink {ifindex}"))?;
        self.uplinks.remove(&ifindex);
        self.xdp.remove(&ifindex);
        Ok(())
    }

    fn attach_xdp(&mut self, ifindex: u32, mode: XdpMode) -> Result<XdpAttachment> {
        let label = format!("attach xdp {ifindex} {mode}");
        self.check(&label)?;
        if let Some(answer) = self.xdp_answers.get(&ifindex) {
            return Ok(answer.clone());
        }
        let former = self.xdp.insert(ifindex, mode);
        if former == Some(mode) {
            return Ok(XdpAttachment::Attached(AttachOutcome::Unchanged));
        }
        self.log.push(label);
        Ok(XdpAttachment::Attached(AttachOutcome::Attached))
    }

    fn detach_xdp(&mut self, ifindex: u32) -> Result<bool> {
        let label = format!("detach xdp {ifindex}");
        self.check(&label)?;
        let detached = self.xdp.remove(&ifindex).is_some();
        self.log.extend(detached.then_some(label));
        Ok(detached)
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<PodPrograms> {
        let label = format!("attach pod {ifindex}");
        self.check(&label)?;
        let changed = self.pod_hooks.insert(ifindex);
        self.log.extend(changed.then_some(label));
        Ok(PodPrograms { changed, by_tcx: self.by_tcx.contains(&ifindex) })
    }

    fn attach_sockets(&mut self) -> Result<usize> {
        self.check("attach sockets")?;
        if std::mem::replace(&mut self.socket_programs, true) {
            return Ok(0);
        }
        self.log.push("attach sockets".to_owned());
        Ok(8)
    }

    fn hand_over(&mut self) -> Result<HandedOver> {
        self.change("hand over".to_owned())?;
        self.former.clear();
        self.change_flags(node_flags::LOOK_BACK, node_flags::HANDED_OVER);
        self.check("copy flows")?;
        self.change_flags(0, node_flags::LOOK_BACK);
        Ok(HandedOver::default())
    }

    fn grow(&mut self, least: &Capacity) -> Result<Grown> {
        let sizes: Vec<String> = least.growing().map(|(_, entries)| entries.to_string()).collect();
        if self.stopping {
            return Err(LoadError::Stopping.into());
        }
        if self.flags() & node_flags::LOOK_BACK != 0 {
            return Err(MigrationError::FlowsNotCopied.into());
        }
        self.change(format!("grow {}", sizes.join(" ")))?;
        let active = self.flags() & node_flags::READY != 0;
        let takes_over = active || self.flags() & node_flags::HANDED_OVER != 0;
        let policies = |capacity: &Capacity| [capacity.policy_classes, capacity.policy_peers];
        if takes_over && policies(least) != policies(&self.capacity) {
            for name in map::POLICY_TABLES {
                // Attached programs keep those that they have.
                let rows = self.maps.get(name).cloned().unwrap_or_default();
                self.former.entry(name).or_insert(rows);
            }
        }
        self.capacity = *least;
        // Those that no program has used get the tables of the attached programs again: once the configuration
        // was ready, in new maps.
        for (name, rows) in &self.former {
            let larger = self.maps.entry(name).or_default();
            if active {
                larger.clear();
            }
            larger.extend(rows.clone());
        }
        if active {
            self.change_flags(node_flags::HANDED_OVER, node_flags::READY);
            self.stale_pins.push("v4-1".to_owned());
        }
        // Every hook has the programs of the former maps.
        self.uplinks.clear();
        self.xdp.clear();
        self.pod_hooks.clear();
        self.socket_programs = false;
        Ok(Grown { capacity: *least, takes_over })
    }

    fn restore_pins(&mut self) -> Result<usize> {
        self.check("restore pins")?;
        if std::mem::replace(&mut self.pins, true) {
            return Ok(0);
        }
        self.log.push("restore pins".to_owned());
        Ok(3)
    }

    fn stale_pins(&mut self) -> Result<Vec<String>> {
        Ok(self.stale_pins.clone())
    }

    fn remove_stale_pins(&mut self) -> Result<Vec<String>> {
        self.check("remove pins")?;
        let removed = std::mem::take(&mut self.stale_pins);
        self.log.extend(removed.iter().map(|version| format!("remove pins {version}")));
        Ok(removed)
    }
}

impl FakeKernel {
    /// Flags of `NODE_CONFIG`.
    fn flags(&self) -> u32 {
        self.rows::<NodeConfigs>().first().map(|(_, config)| config.flags).unwrap_or_default()
    }

    fn change_flags(&mut self, set: u32, clear: u32) {
        if let Some((key, mut config)) = self.rows::<NodeConfigs>().pop() {
            config.flags = (config.flags & !clear) | set;
            self.overwrite::<NodeConfigs>(key, config);
        }
    }
}
