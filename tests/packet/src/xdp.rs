//! The XDP program in test runs.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use aya::maps::{PerCpuArray, PerCpuValues};
use sluice_abi::{device_flags, program, ticks};
use sluice_bpf::test_run::{self, XdpAction};

use crate::artefacts::RecordedRun;
use crate::counters;
use crate::topology::{SECOND_IFINDEX, UPLINK_IFINDEX};
use crate::{Counters, Datapath, empty_program, show};

/// What the XDP program did with one frame.
#[derive(Debug)]
pub struct XdpRun {
    /// Its verdict.
    pub action: XdpAction,
    /// The frame that came out.
    pub data: Vec<u8>,
    /// What this frame added to the counters.
    pub counters: Counters,
}

impl Datapath {
    /// Writes XDP into the rows of the devices.
    pub fn use_xdp(&mut self) {
        create_receive_queues();
        self.xdp_flags = device_flags::XDP_NATIVE;
        self.devices();
    }

    /// Writes rows of devices without XDP from now on.
    pub fn xdp_off(&mut self) {
        self.xdp_flags = 0;
    }

    /// Moves the last packets that XDP has left to the stack to refresh neighbour entries into the
    /// past, on every CPU.
    pub fn age_neighbour_uses(&mut self, seconds: u32) {
        let map = self.object_mut().map_mut("NEIGHBOUR_USES").expect("the object has the map");
        let mut uses = PerCpuArray::<_, u32>::try_from(map).unwrap();
        for slot in 0..uses.len() {
            let aged: Vec<u32> = uses
                .get(&slot, 0)
                .unwrap()
                .iter()
                .map(|tick| if *tick == 0 { 0 } else { tick.wrapping_sub(ticks(seconds)) })
                .collect();
            uses.set(slot, PerCpuValues::try_from(aged).unwrap(), 0).unwrap();
        }
    }

    /// Runs the XDP program over a frame that a device receives.
    pub fn xdp(&self, ifindex: u32, frame: &[u8]) -> XdpRun {
        self.try_xdp(ifindex, frame).unwrap_or_else(|e| panic!("{e} for {}", show(frame)))
    }

    /// As [`Datapath::xdp`].
    ///
    /// # Errors
    /// The kernel refuses the test run: EINVAL for a frame that is too short.
    pub fn try_xdp(&self, ifindex: u32, frame: &[u8]) -> io::Result<XdpRun> {
        let before = self.counters();
        let ran = test_run::run_xdp(self.fd(program::XDP_NETDEV), frame, ifindex, 1)?;
        let counters = counters::difference(&before, &self.counters());
        self.recording().push(RecordedRun {
            program: program::XDP_NETDEV.to_owned(),
            ifindex,
            frame: frame.to_vec(),
            action: format!("{:?}", ran.action),
            data: ran.data.clone(),
            counters: counters.clone(),
            ..RecordedRun::default()
        });
        Ok(XdpRun { action: ran.action, data: ran.data, counters })
    }
}

/// Attaches an empty program to the uplinks until the process ends. Test runs need the receive queue
/// of the device, and a veth device has one only while it has a program.
fn create_receive_queues() {
    static LINKS: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    LINKS.get_or_init(|| {
        let attach = |ifindex| attach(ifindex).unwrap_or_else(|e| panic!("device {ifindex}: {e}"));
        [UPLINK_IFINDEX, SECOND_IFINDEX].map(attach).into()
    });
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn attach(ifindex: u32) -> io::Result<OwnedFd> {
    const LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const DRIVER_MODE: u32 = 4;
    let program = empty_program::load_xdp()?;
    let prog_fd = program.as_raw_fd() as u32;
    let attr = LinkCreate { prog_fd, ifindex, attach_type: BPF_XDP, flags: DRIVER_MODE };
    // SAFETY: the attribute lives during the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, &attr, size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
