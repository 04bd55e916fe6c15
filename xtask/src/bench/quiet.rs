//! Waits until the machine has little to do: after Services are created, API servers, controllers and
//! kube-proxy work on for a while, in one network longer than in another.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::progress;

/// Duration of one observation.
const WINDOW: Duration = Duration::from_secs(3);
/// Share of the time of all CPUs above which the machine is busy: idle clusters take a tenth.
const BUSY: f64 = 0.3;
/// Longest time to wait: other programs of the machine may never end.
const LIMIT: Duration = Duration::from_secs(60);

/// Time of all CPUs since the start of the machine, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTime {
    idle: u64,
    all: u64,
}

impl CpuTime {
    /// Parses the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str) -> Option<CpuTime> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let times: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
        Some(CpuTime { idle: times.get(3)? + times.get(4)?, all: times.iter().sum() })
    }

    fn read() -> Result<CpuTime> {
        CpuTime::parse(&fs::read_to_string("/proc/stat")?).context("unexpected /proc/stat")
    }

    /// The share of the time since `before` in which CPUs were not idle.
    fn busy_since(self, before: CpuTime) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        1.0 - self.idle.saturating_sub(before.idle) as f64 / all as f64
    }
}

/// Waits until the CPUs are idle for most of an observation, at most a minute.
///
/// # Errors
/// When /proc/stat cannot be read.
pub fn wait() -> Result<()> {
    let start = Instant::now();
    loop {
        let before = CpuTime::read()?;
        thread::sleep(WINDOW);
        let busy = CpuTime::read()?.busy_since(before);
        if busy < BUSY || start.elapsed() >= LIMIT {
            let result = format!("CPUs are busy for {:.0} %", busy * 100.0);
            progress::line("background work", &result, start.elapsed());
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_the_share_that_is_neither_idle_nor_waiting() {
        let before = CpuTime::parse("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1\n").expect("valid");
        assert_eq!(before, CpuTime { idle: 80, all: 100 });
        let after = CpuTime::parse("cpu  40 0 10 130 20 0 0 0 50 50\n").expect("valid");
        assert!((after.busy_since(before) - 0.3).abs() < 1e-9);
        assert_eq!(before.busy_since(before), 1.0);
        assert_eq!(CpuTime::parse("intr 1 2 3"), None);
    }
}
