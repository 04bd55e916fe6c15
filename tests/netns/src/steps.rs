//! The system calls of a call. It is killed between two of its steps, of which there are some dozens: the system
//! calls by which a process changes what outlives it. Unlike instants, they are the same in each run, and none
//! is missed. Or those of bpf(2) are counted, which unlike time do not depend on the machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
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
        let mut steps = 0;
        let end = self.trace(namespaces, |entry| {
            let is_step = STEPS.iter().any(|step| u64::try_from(*step) == Ok(entry.nr));
            if is_step && steps == step {
                return ControlFlow::Break(());
            }
            steps += usize::from(is_step);
            ControlFlow::Continue(())
        });
        end.is_none()
    }

    /// Makes the call, which must succeed. Returns how often it calls each command of bpf(2) (`enum bpf_cmd` in
    /// linux/bpf.h).
    pub fn bpf_commands(&self, namespaces: &Namespaces) -> BTreeMap<u64, usize> {
        let mut commands = BTreeMap::new();
        let end = self.trace(namespaces, |entry| {
            if u64::try_from(libc::SYS_bpf) == Ok(entry.nr) {
                *commands.entry(entry.args[0]).or_default() += 1;
            }
            ControlFlow::Continue(())
        });
        assert_eq!(end, Some(0), "exit code");
        commands
    }

    /// Makes the call and passes each system call of its main thread to `visit`, before it is made; other threads, which
    /// open netlink sockets in the pod's namespace, are not traced. Kills the call when `visit` breaks. Returns the exit
    /// code, if it was not killed.
    fn trace(
        &self,
        namespaces: &Namespaces,
        mut visit: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Option<i32> {
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
        let mut signal = None;
        loop {
            ptrace::syscall(pid, signal.take()).unwrap();
            match waitpid(pid, None).unwrap() {
                WaitStatus::PtraceSyscall(_) => match entry(pid).map(&mut visit) {
                    Some(ControlFlow::Break(())) => {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        return None;
                    }
                    Some(ControlFlow::Continue(())) | None => {}
                },
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Exited(_, code) => return Some(code),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Number and arguments of a system call.
struct Entry {
    nr: u64,
    args: [u64; 6],
}

/// The system call that the process is about to make; `None` if it returns from one.
fn entry(pid: Pid) -> Option<Entry> {
    let info = ptrace::syscall_info(pid).unwrap();
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that this is the variant that the kernel has written.
    let entry = unsafe { info.u.entry };
    Some(Entry { nr: entry.nr, args: entry.args })
}
