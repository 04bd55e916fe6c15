//! The choice of XDP for a device. Pure.

use clap::ValueEnum;
use sluice_bpf::attach::XdpMode;
use sluice_pod::device::{Link, LinkLayer};

/// Use of XDP on the devices with programs.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// In the driver, where it can; not on veth devices.
    #[default]
    Auto,
    /// In the driver, where it can; the peers of veth devices must have XDP programs.
    Native,
    /// In the kernel's receive path.
    Generic,
    /// Not at all.
    Off,
}

/// XDP of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpState {
    /// The program is attached.
    On(XdpMode),
    /// It is not wanted on this device, for this reason.
    Unwanted(&'static str),
    /// The device has a program of other software, with this id.
    Foreign(u32),
    /// The driver or the kernel refuses this mode. It is not tried again: an attempt can reset a device.
    Refused(XdpMode, String),
}

impl XdpState {
    /// The mode, if the program is attached.
    pub fn mode(&self) -> Option<XdpMode> {
        match self {
            XdpState::On(mode) => Some(*mode),
            _ => None,
        }
    }

    /// For users: the mode, or `off` with the reason.
    pub fn describe(&self) -> String {
        match self {
            XdpState::On(mode) => mode.to_string(),
            XdpState::Unwanted(reason) => format!("off ({reason})"),
            XdpState::Foreign(id) => {
                format!("off (the device has the XDP program {id} of other software)")
            }
            XdpState::Refused(mode, reason) => format!("off ({mode} refused: {reason})"),
        }
    }
}

/// The mode for a device.
///
/// # Errors
/// The reason for which it gets no XDP program.
pub fn choose(choice: XdpChoice, link: &Link, links: &[Link]) -> Result<XdpMode, &'static str> {
    let has_vlans = links.iter().any(|other| other.vlan_of == Some(link.index));
    match choice {
        XdpChoice::Off => Err("--xdp=off"),
        _ if link.layer != LinkLayer::Ethernet => Err("no Ethernet header"),
        // Their tags may have been removed before XDP.
        _ if has_vlans => Err("the device has VLAN devices"),
        XdpChoice::Generic => Ok(XdpMode::Generic),
        XdpChoice::Native => Ok(XdpMode::Native),
        XdpChoice::Auto if link.veth => {
            Err("veth: requires --xdp=native, and an XDP program on its peer")
        }
        XdpChoice::Auto => Ok(XdpMode::Native),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::link;

    #[test]
    fn veth_devices_get_xdp_on_request_only() {
        let plain = link(2, "eth0");
        let veth = Link { veth: true, ..link(3, "eth1") };
        let mode = |choice, link: &Link| choose(choice, link, &[]).ok();
        for (choice, of_plain, of_veth) in [
            (XdpChoice::Auto, Some(XdpMode::Native), None),
            (XdpChoice::Native, Some(XdpMode::Native), Some(XdpMode::Native)),
            (XdpChoice::Generic, Some(XdpMode::Generic), Some(XdpMode::Generic)),
            (XdpChoice::Off, None, None),
        ] {
            assert_eq!(
                (mode(choice, &plain), mode(choice, &veth)),
                (of_plain, of_veth),
                "{choice:?}"
            );
        }
    }

    #[test]
    fn devices_with_vlans_or_without_ethernet_header_get_none() {
        let plain = link(2, "eth0");
        let vlan = |of| Link { vlan_of: Some(of), ..link(9, "vlan") };
        assert!(choose(XdpChoice::Native, &plain, &[vlan(2)]).is_err());
        assert!(choose(XdpChoice::Native, &plain, &[vlan(3)]).is_ok());
        let tunnel = Link { layer: LinkLayer::Ip, ..link(4, "wg0") };
        assert!(choose(XdpChoice::Generic, &tunnel, &[]).is_err());
    }

    #[test]
    fn description_names_mode_or_reason() {
        let text = |state: XdpState| state.describe();
        assert_eq!(text(XdpState::On(XdpMode::Native)), "native");
        assert_eq!(text(XdpState::Unwanted("--xdp=off")), "off (--xdp=off)");
        let refused = XdpState::Refused(XdpMode::Native, "not supported".to_owned());
        assert_eq!(text(refused), "off (native refused: not supported)");
        assert!(text(XdpState::Foreign(7)).contains("program 7 of other software"));
    }
}
