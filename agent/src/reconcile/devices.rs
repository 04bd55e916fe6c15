//! Programs on the devices that packets leave by, and the map `DEVICES` that describes them.
//!
//! A device has an entry in the map once it has its programs: until then, flows that would leave by
//! it are not opened, because nothing would translate their replies back. A device that gets none has
//! an entry as soon as a route leads to it.

use std::collections::BTreeSet;

use sluice_abi::{Addr, Device, device_flags};
use sluice_bpf::attach::{AttachOutcome, XdpAttachment, XdpMode};
use sluice_bpf::error_chain;
use sluice_core::table::{Devices, Table, diff};
use sluice_pod::device::LinkLayer;

use super::{NO_UPLINK, NotReconciled, Reconciler, TABLES_EMPTY, all_or_failed};
use crate::conditions::Concern;
use crate::devices::xdp::{self, XdpState};
use crate::devices::{NodeDevice, Role};
use crate::kernel::{Kernel, Result};
use crate::state::State;

/// Attaches the programs to the devices, and detaches them from those that are no longer used.
#[derive(Debug, Default)]
pub struct ReconcileDevices {
    /// Devices that may still have the programs, once known.
    former: Option<BTreeSet<u32>>,
}

impl Reconciler for ReconcileDevices {
    fn concern(&self) -> Concern {
        Concern::Devices
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> std::result::Result<(), NotReconciled> {
        state.uplink().ok_or(NO_UPLINK)?;
        if !state.may_attach() {
            return Err(TABLES_EMPTY);
        }
        let former = match &mut self.former {
            Some(former) => former,
            // An earlier agent may have attached them to devices that are no longer used.
            none => none.insert(managed_in_map(kernel)?),
        };
        let mut failures = Vec::new();
        let mut repaired = 0;
        let desired: Vec<NodeDevice> = managed(state).cloned().collect();
        for device in &desired {
            let index = device.link.index;
            former.remove(&index);
            match kernel.attach_uplink(index, device.link.layer) {
                Ok(changed) => {
                    if changed {
                        tracing::info!(device = %device.link.name, "programs attached");
                    }
                    repaired += usize::from(changed && state.attached().contains(&index));
                    state.set_attached(index, true);
                    match reconcile_xdp(state, kernel, device) {
                        Ok(changes) => repaired += changes,
                        Err(e) => failures.push(error_chain(&e)),
                    }
                }
                Err(e) => failures.push(error_chain(&e)),
            }
        }
        state.repaired("uplink_programs", repaired);
        former.extend(
            state.attached().iter().filter(|&&a| !desired.iter().any(|d| d.link.index == a)),
        );
        former.retain(|&index| match kernel.detach_uplink(index) {
            Ok(()) => {
                state.set_attached(index, false);
                state.set_xdp(index, None);
                false
            }
            Err(e) => {
                failures.push(error_chain(&e));
                true
            }
        });
        all_or_failed(&failures)
    }
}

/// Attaches the XDP program to a device, or detaches it. Returns the number of repairs. A device whose
/// driver refuses it, or that has another program, has tc alone: no failure.
fn reconcile_xdp(state: &mut State, kernel: &mut dyn Kernel, device: &NodeDevice) -> Result<usize> {
    let index = device.link.index;
    let before = state.xdp(index).cloned();
    let mut repairs = 0;
    let xdp = match (xdp::choose(state.config().xdp, &device.link, state.links()), &before) {
        (Err(reason), before) => {
            // Also one of an earlier agent.
            if !matches!(before, Some(XdpState::Unwanted(_))) {
                kernel.detach_xdp(index)?;
            }
            XdpState::Unwanted(reason)
        }
        (Ok(mode), Some(XdpState::Refused(refused, _))) if mode == *refused => return Ok(0),
        (Ok(mode), before) => match kernel.attach_xdp(index, mode)? {
            XdpAttachment::Attached(outcome) => {
                let is_on = *before == Some(XdpState::On(mode));
                repairs = usize::from(is_on && outcome == AttachOutcome::Attached);
                XdpState::On(mode)
            }
            XdpAttachment::Foreign(id) => XdpState::Foreign(id),
            XdpAttachment::Refused(reason) => XdpState::Refused(mode, reason),
        },
    };
    if before.as_ref() != Some(&xdp) {
        tracing::info!(device = %device.link.name, xdp = %xdp.describe(), "XDP selected");
    }
    state.set_xdp(index, Some(xdp));
    Ok(repairs)
}

fn managed(state: &State) -> impl Iterator<Item = &NodeDevice> {
    state.devices().iter().filter(|device| device.is_managed())
}

fn managed_in_map(kernel: &mut dyn Kernel) -> Result<BTreeSet<u32>> {
    let rows = kernel.read(Devices::SPEC)?;
    let managed = |(index, device): (u32, Device)| {
        (device.flags & device_flags::MANAGED != 0).then_some(index)
    };
    Ok(rows.typed::<Devices>().filter_map(managed).collect())
}

/// Writes `DEVICES`.
#[derive(Debug, Default)]
pub struct ReconcileDeviceMap;

impl Reconciler for ReconcileDeviceMap {
    fn concern(&self) -> Concern {
        Concern::DeviceMap
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> std::result::Result<(), NotReconciled> {
        state.uplink().ok_or(NO_UPLINK)?;
        let rows = kernel.read(Devices::SPEC)?;
        let actual: Vec<(u32, Device)> = rows.typed::<Devices>().collect();
        let former = |index| actual.iter().find(|(i, _)| *i == index).map(|(_, device)| device);
        // Programs that are attached later find the entries.
        let all = !state.may_attach();
        let has_entry = |d: &&NodeDevice| match d.role {
            Role::Managed => all || state.attached().contains(&d.link.index),
            Role::Unmanaged => true,
            // A route may lead to it before the agent knows.
            Role::Unused => false,
        };
        let desired: Vec<(u32, Device)> = state
            .devices()
            .iter()
            .filter(has_entry)
            .map(|device| {
                let index = device.link.index;
                let mode = state.xdp(index).and_then(XdpState::mode);
                (index, row(device, mode, former(index)))
            })
            .collect();
        for write in diff::<Devices>(&rows, desired) {
            kernel.write(&write)?;
        }
        Ok(())
    }
}

/// The entry of a device. The address of one that has lost its own and has no other is kept.
fn row(device: &NodeDevice, xdp: Option<XdpMode>, former: Option<&Device>) -> Device {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let kept = former.map(|device| device.addr);
    Device {
        addr: device.address.map(Addr::from).or(kept).unwrap_or(Addr::UNSPECIFIED),
        flags: flag(device.is_managed(), device_flags::MANAGED)
            | flag(device.link.layer == LinkLayer::Ip, device_flags::NO_ETHERNET)
            | flag(xdp == Some(XdpMode::Native), device_flags::XDP_NATIVE)
            | flag(xdp == Some(XdpMode::Generic), device_flags::XDP_GENERIC),
        mac: device.link.mac.unwrap_or_default(),
        pad: [0; 2],
    }
}
