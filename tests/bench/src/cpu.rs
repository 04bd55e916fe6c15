//! Placement of threads on CPUs.

use std::io;

use anyhow::Context;

/// Keeps a thread on one CPU, and all threads that it starts from then on. 0 is the calling thread; the
/// id of a process is that of its first thread.
///
/// # Errors
/// When the thread does not exist or may not run on the CPU.
pub fn pin(thread: i32, cpu: usize) -> anyhow::Result<()> {
    let result = if cpu < libc::CPU_SETSIZE as usize {
        // SAFETY: a set of CPUs consists of integers, for which zeros are valid; the CPU is within it;
        // the call reads as many bytes as the set has.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
        }
    } else {
        -1
    };
    let error = if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    error.with_context(|| format!("cannot keep thread {thread} on CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_one_cpu() {
        std::thread::spawn(|| {
            pin(0, 0).expect("CPU 0");
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        })
        .join()
        .expect("no panic");
        assert!(pin(0, 100_000).is_err());
    }
}
