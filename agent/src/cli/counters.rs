//! `sluice counters`.

use super::maps;
use crate::cli::table::align;
use crate::cli::{Output, print_json};
use crate::dataplane::counters;

/// `sluice counters`.
pub fn counters(output: Output) -> anyhow::Result<()> {
    let counts = counters::read(&maps()?.counters)?;
    if output == Output::Json {
        return print_json(&counts);
    }
    let cells: Vec<Vec<String>> = counts
        .into_iter()
        .filter(|c| c.packets > 0)
        .map(|c| vec![c.kind, c.label, c.packets.to_string(), c.bytes.to_string()])
        .collect();
    print!("{}", align(&["KIND", "LABEL", "PACKETS", "BYTES"], &cells));
    Ok(())
}
