//! BPF_PROG_TEST_RUN with its context, which aya's wrapper does not show.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// `BPF_PROG_TEST_RUN` of `enum bpf_cmd`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// What a tc program says (include/uapi/linux/pkt_cls.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// TC_ACT_UNSPEC: on to the next program, then the stack.
    Next,
    /// TC_ACT_SHOT.
    Drop,
    /// TC_ACT_REDIRECT.
    Redirect,
    /// Anything else.
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

/// What came out.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The verdict.
    pub action: Action,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// Mean time of one run.
    pub time: Duration,
}

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct __sk_buff` as 32-bit words; only fields that the kernel lets a test set are set.
const SK_BUFF_WORDS: usize = 48;
const WORD_IFINDEX: usize = 10;
const WORD_GSO_SIZE: usize = 44;

/// Runs a tc program over `packet`, `repeat` times for the time, as if it came in on `ifindex`.
///
/// # Errors
/// EINVAL if the packet is shorter than the kernel accepts.
pub fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ifindex: u32,
    gso_size: u32,
    repeat: u32,
) -> io::Result<Ran> {
    let mut context = [0u32; SK_BUFF_WORDS];
    context[WORD_IFINDEX] = ifindex;
    context[WORD_GSO_SIZE] = gso_size;
    let (retval, data, time) = test_run(program, packet, &context, repeat)?;
    Ok(Ran { action: retval.into(), data, time })
}

/// Runs an XDP program once over `packet`, as if it came in on the loopback device of the current
/// network namespace. Returns the XDP action and the packet afterwards.
///
/// # Errors
/// EINVAL if the packet is shorter than the kernel accepts.
pub fn run_xdp(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    test_run(program, packet, &[], 1).map(|(action, data, _)| (action, data))
}

fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u32],
    repeat: u32,
) -> io::Result<(u32, Vec<u8>, Duration)> {
    let mut out = vec![0u8; packet.len() + 256];
    let mut attr = TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestAttr::default()
    };
    // SAFETY: the attribute's pointers and lengths describe live buffers for the whole call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<TestAttr>() as libc::c_uint,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out, Duration::from_nanos(attr.duration.into())))
}
