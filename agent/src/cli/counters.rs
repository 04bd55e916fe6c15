//! `sluice counters`: packets and bytes by drop reason and outcome.

use super::maps;
use super::output::{Output, TableRow, print_rows};
use crate::kernel::{Count, read_counters};

impl TableRow for Count {
    const HEADER: &'static [&'static str] = &["KIND", "LABEL", "PACKETS", "BYTES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.label.clone(),
            self.packets.to_string(),
            self.bytes.to_string(),
        ]
    }
}

/// Lists the counters; in a table only those that are not zero.
///
/// # Errors
/// The maps cannot be read.
pub fn run(output: Output) -> anyhow::Result<()> {
    let mut counts = read_counters(&maps()?.counters)?;
    if output == Output::Text {
        counts.retain(|count| count.packets > 0);
    }
    print_rows(output, "packets", &counts)
}
