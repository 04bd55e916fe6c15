//! Texts of /proc and /sys: the uptime and lists of CPUs.

use sluice_bpf::parse_cpu_list;
use sluice_pod::lease::parse_uptime;

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(seconds) = parse_uptime(text) {
        assert_eq!(parse_uptime(&format!("{seconds}.99 0.00\n")), Some(seconds));
    }
    if let Some(count) = parse_cpu_list(text) {
        assert!(count >= 1);
        assert_eq!(parse_cpu_list(&format!("0-{}\n", count - 1)), Some(count));
        let more = format!("{},{}", text.trim(), count - 1);
        assert_eq!(parse_cpu_list(&more), Some(count), "{more:?}");
        let numbers = text.trim().split([',', '-']).map(|number| number.parse::<usize>().unwrap());
        assert_eq!(numbers.max(), Some(count - 1));
    }
}
