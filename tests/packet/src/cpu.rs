//! The CPU that a test runs on: many maps of the programs have an entry for each.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// The CPUs that this thread may run on.
pub fn usable() -> Vec<usize> {
    let set = sched_getaffinity(SELF).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
}

/// Moves this thread to a CPU and keeps it there.
pub fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(SELF, &set).unwrap();
}

/// Keeps this thread on the CPU that it runs on.
pub fn stay() {
    stay_on(sched_getcpu().unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_stays_on_the_cpu_that_it_was_moved_to() {
        for cpu in usable() {
            stay_on(cpu);
            assert_eq!((sched_getcpu(), usable()), (Ok(cpu), vec![cpu]));
            // The others are usable again.
            let mut all = CpuSet::new();
            (0..CpuSet::count()).for_each(|cpu| all.set(cpu).unwrap());
            sched_setaffinity(SELF, &all).unwrap();
        }
    }
}
