//! `BPF_PROG_TEST_RUN`: one packet through a loaded program, with a context.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::sys::{Cmd, TestRunAttr, bpf};

/// Bytes that a program may add to a packet.
const HEADROOM: usize = 256;

/// `struct __sk_buff` in 32-bit words. The kernel accepts only some fields in a test.
const SK_BUFF_WORDS: usize = 48;
const SK_BUFF_INGRESS_IFINDEX: usize = 9;
const SK_BUFF_IFINDEX: usize = 10;
const SK_BUFF_GSO_SIZE: usize = 44;

/// `struct xdp_md` in 32-bit words.
const XDP_MD_WORDS: usize = 6;
const XDP_MD_DATA_END: usize = 1;
const XDP_MD_INGRESS_IFINDEX: usize = 3;

/// Verdict of a tc program (include/uapi/linux/pkt_cls.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// TC_ACT_UNSPEC: the next program, then the stack.
    Next,
    /// TC_ACT_SHOT.
    Drop,
    /// TC_ACT_REDIRECT.
    Redirect,
    /// Any other value.
    Other(u32),
}

impl From<u32> for Action {
    fn from(retval: u32) -> Action {
        match retval {
            u32::MAX => Action::Next,
            2 => Action::Drop,
            7 => Action::Redirect,
            n => Action::Other(n),
        }
    }
}

/// Verdict of an XDP program (`enum xdp_action`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAction {
    /// XDP_ABORTED: the program failed.
    Aborted,
    /// XDP_DROP.
    Drop,
    /// XDP_PASS: on to the stack.
    Pass,
    /// XDP_TX: back out of the device on which the packet arrived.
    Tx,
    /// XDP_REDIRECT.
    Redirect,
    /// Any other value.
    Other(u32),
}

impl From<u32> for XdpAction {
    fn from(retval: u32) -> XdpAction {
        match retval {
            0 => XdpAction::Aborted,
            1 => XdpAction::Drop,
            2 => XdpAction::Pass,
            3 => XdpAction::Tx,
            4 => XdpAction::Redirect,
            n => XdpAction::Other(n),
        }
    }
}

/// Result of a run; `A` is the verdict's type.
#[derive(Clone, Debug)]
pub struct Ran<A = Action> {
    /// The verdict.
    pub action: A,
    /// The packet after the run.
    pub data: Vec<u8>,
    /// Mean time of one run.
    pub time: Duration,
}

/// Runs a tc program `repeat` times over `packet`, as if it arrived on `ifindex`; `gso_size` is the
/// payload size of the segments that the kernel makes of it, 0 for none.
///
/// # Errors
/// EINVAL if the packet is shorter than an Ethernet header, ENODEV if `ifindex` does not exist in
/// the current network namespace; any other error of the kernel.
pub fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ifindex: u32,
    gso_size: u32,
    repeat: u32,
) -> io::Result<Ran> {
    let mut context = [0u32; SK_BUFF_WORDS];
    context[SK_BUFF_IFINDEX] = ifindex;
    context[SK_BUFF_GSO_SIZE] = gso_size;
    run_with(program, packet, &context, repeat)
}

/// Runs a tc program over `packet` on the device `ifindex`; the device `received_by` has received it, so
/// that the stack forwards it.
///
/// # Errors
/// As for [`run`].
pub fn run_received(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ifindex: u32,
    received_by: u32,
) -> io::Result<Ran> {
    let mut context = [0u32; SK_BUFF_WORDS];
    context[SK_BUFF_IFINDEX] = ifindex;
    context[SK_BUFF_INGRESS_IFINDEX] = received_by;
    run_with(program, packet, &context, 1)
}

/// Runs an XDP program `repeat` times over `packet`, as if it arrived on `ingress_ifindex`; 0
/// selects the device that the kernel uses for tests.
///
/// # Errors
/// EINVAL if the packet is shorter than an Ethernet header or longer than a page holds, ENODEV if
/// `ingress_ifindex` does not exist in the current network namespace; any other error of the
/// kernel.
pub fn run_xdp(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ingress_ifindex: u32,
    repeat: u32,
) -> io::Result<Ran<XdpAction>> {
    let mut context = [0u32; XDP_MD_WORDS];
    // The kernel compares it with the length of the packet.
    context[XDP_MD_DATA_END] = packet.len() as u32;
    context[XDP_MD_INGRESS_IFINDEX] = ingress_ifindex;
    run_with(program, packet, &context, repeat)
}

fn run_with<A: From<u32>>(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u32],
    repeat: u32,
) -> io::Result<Ran<A>> {
    let mut out = vec![0u8; packet.len() + HEADROOM];
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    // SAFETY: the attribute's pointers and lengths describe live buffers for the whole call.
    unsafe { bpf(Cmd::ProgTestRun, &mut attr) }?;
    out.truncate(attr.data_size_out as usize);
    Ok(Ran {
        action: attr.retval.into(),
        data: out,
        time: Duration::from_nanos(attr.duration.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_those_of_the_kernel() {
        // include/uapi/linux/pkt_cls.h, TC_ACT_*
        for (retval, action) in [
            (u32::MAX, Action::Next),
            (0, Action::Other(0)),
            (2, Action::Drop),
            (7, Action::Redirect),
        ] {
            assert_eq!(Action::from(retval), action);
        }
        // include/uapi/linux/bpf.h, enum xdp_action
        use XdpAction::{Aborted, Drop, Other, Pass, Redirect, Tx};
        let actions = [Aborted, Drop, Pass, Tx, Redirect, Other(5)];
        for (retval, action) in (0..).zip(actions) {
            assert_eq!(XdpAction::from(retval), action);
        }
    }
}
