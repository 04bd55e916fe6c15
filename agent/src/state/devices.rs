//! The uplink and the other devices that packets leave by.

use std::collections::BTreeSet;

use sluice_pod::device::Link;

use super::State;
use crate::conditions::Concern::{CniFiles, DeviceMap, Devices, Forwarding, NodeConfig, Routes};
use crate::devices::xdp::XdpState;
use crate::devices::{self, NodeDevice};
use crate::host::{Uplink, UplinkError};

impl State {
    /// Chooses the uplink, and the devices that get programs, among the observed devices.
    ///
    /// # Errors
    /// No device can be the uplink; the former choice is kept.
    pub fn choose_devices(&mut self) -> Result<(), UplinkError> {
        let internal = self.this_node().map(|n| n.internal_ips.as_slice()).unwrap_or_default();
        let uplink = self.host.uplink(&self.config.uplink, internal)?;
        let choice = &self.config.devices;
        let devices = devices::select(&self.host, choice, &uplink, internal, &self.attached);
        if self.uplink.as_ref() != Some(&uplink) {
            tracing::info!(
                device = %uplink.link.name,
                mtu = uplink.link.mtu,
                v4 = ?uplink.v4,
                v6 = ?uplink.v6,
                "uplink selected"
            );
            self.uplink = Some(uplink);
            self.mark([Routes, NodeConfig, CniFiles]);
        }
        if self.devices != devices {
            self.devices = devices;
            self.mark([Devices, DeviceMap, Forwarding]);
        }
        Ok(())
    }

    /// The device that leads to the other nodes, once known.
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// The devices that packets can leave by.
    pub fn devices(&self) -> &[NodeDevice] {
        &self.devices
    }

    /// Indices of the devices that have the programs.
    pub fn attached(&self) -> &BTreeSet<u32> {
        &self.attached
    }

    /// Records whether a device has the programs.
    pub fn set_attached(&mut self, ifindex: u32, attached: bool) {
        let changed =
            if attached { self.attached.insert(ifindex) } else { self.attached.remove(&ifindex) };
        if changed {
            self.mark([DeviceMap]);
        }
    }

    /// Every device of the node.
    pub fn links(&self) -> &[Link] {
        &self.host.links
    }

    /// XDP of a device with programs, once known.
    pub fn xdp(&self, ifindex: u32) -> Option<&XdpState> {
        self.xdp.get(&ifindex)
    }

    /// Records XDP of a device, or that it has no programs any more.
    pub fn set_xdp(&mut self, ifindex: u32, xdp: Option<XdpState>) {
        let before = self.xdp.get(&ifindex).and_then(XdpState::mode);
        if before != xdp.as_ref().and_then(XdpState::mode) {
            self.mark([DeviceMap]);
        }
        match xdp {
            Some(xdp) => self.xdp.insert(ifindex, xdp),
            None => self.xdp.remove(&ifindex),
        };
    }
}
