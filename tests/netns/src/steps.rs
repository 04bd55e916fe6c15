//! A call that is killed between two of its steps, of which there are some dozens: the system calls by which
//! a process changes what outlives it. Unlike instants, they are the same in each run, and none is missed.

use std::io::Write;
use std::os::unix::process::CommandExt;

use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{CniCall, Namespaces};

/// bpf(2), netlink requests, and changes of files. Requests that only read are among them.
const STEPS: &[libc::c_long] = &[
    libc::SYS_bpf,
    libc::SYS_ftruncate,
    libc::SYS_mkdirat,
    libc::SYS_pwrite64,
    libc::SYS_renameat,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_unlinkat,
    libc::SYS_write,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

impl CniCall {
    /// Makes the call, and kills it before the step with this number, the first being 0. Returns false if it
    /// ended before, because it has no such step.
    pub fn kill_before(&self, namespaces: &Namespaces, step: usize) -> bool {
        let mut command = self.command(namespaces);
        // SAFETY: between fork and exec the closure only makes a ptrace(2) call; it allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(ptrace::traceme()?));
        }
        // The thread that forks is the tracer: all requests come from here.
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))), "stopped at exec");
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
        child.stdin.take().unwrap().write_all(self.config().as_bytes()).unwrap();
        let (mut signal, mut steps) = (None, 0);
        loop {
            ptrace::syscall(pid, signal.take()).unwrap();
            match waitpid(pid, None).unwrap() {
                WaitStatus::PtraceSyscall(_) if !is_step(pid) => {}
                WaitStatus::PtraceSyscall(_) if steps < step => steps += 1,
                WaitStatus::PtraceSyscall(_) => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return true;
                }
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Exited(..) => return false,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Whether the process is about to make one of the system calls.
fn is_step(pid: Pid) -> bool {
    let info = ptrace::syscall_info(pid).unwrap();
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return false;
    }
    // SAFETY: `op` says that this is the variant that the kernel has written.
    let number = unsafe { info.u.entry.nr };
    STEPS.iter().any(|step| u64::try_from(*step) == Ok(number))
}
