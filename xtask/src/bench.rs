//! `cargo xtask bench`: Sluice against kube-proxy and the plain bridge plugin, in one run.
//!
//! Three clusters of two nodes stand side by side; each round measures each of them, so that whatever the
//! machine does meanwhile happens to all. What is claimed is a ratio of two series of the same rounds.
//! Out: the table on the terminal, and `bench.json`, `bench.md` and `bench.svg` in target/bench.

mod lab;
mod plot;
mod report;

use crate::cache::{Cache, target};
use crate::{progress, setup};
use anyhow::{Context, Result};
use clap::Args;
use lab::Lab;
use report::{Load, Network, Series};
use serde_json::{Value, json};
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Rounds; every round measures everything once
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Leave the clusters standing
    #[arg(long)]
    keep: bool,
    /// Without the bridge and kube-proxy clusters
    #[arg(long)]
    only_sluice: bool,
}

const LOADS: [Load; 3] = [Load::RequestResponse, Load::Connect, Load::Throughput];

/// Measures, prints, writes.
///
/// # Errors
/// When a cluster does not come up or a measurement fails; what was made is removed all the same.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    setup::require_root()?;
    let networks: &[Network] = if options.only_sluice {
        &[Network::Sluice]
    } else {
        &[Network::Sluice, Network::Iptables, Network::Nftables]
    };
    let written = measure(cache, options, networks).and_then(|(series, memory)| {
        let adds = lab::cni_adds(cache)?;
        write(&series, &memory, &adds)
    });
    if !options.keep {
        for network in networks {
            lab::down(cache, *network)?;
        }
    }
    written.map(|()| ExitCode::SUCCESS)
}

fn measure(
    cache: &Cache,
    options: &Options,
    networks: &[Network],
) -> Result<(Vec<Series>, Vec<Value>)> {
    let archive = lab::load_image(cache)?;
    let labs: Vec<Lab> =
        networks.iter().map(|n| Lab::up(cache, *n, &archive)).collect::<Result<_>>()?;
    let mut all = Vec::new();
    for load in LOADS {
        for same_node in [true, false] {
            all.extend(labs.iter().map(|lab| Series {
                network: lab.network,
                same_node,
                load,
                direct: Vec::new(),
                cluster_ip: Vec::new(),
            }));
        }
    }
    for round in 0..options.rounds {
        let began = Instant::now();
        for series in &mut all {
            let lab = labs
                .iter()
                .find(|lab| lab.network == series.network)
                .context("a series without its cluster")?;
            // Who goes first changes from round to round.
            for cluster_ip in [round % 2 == 1, round % 2 == 0] {
                let sample =
                    lab.measure(series.load, series.same_node, cluster_ip, options.seconds)?;
                let samples = if cluster_ip { &mut series.cluster_ip } else { &mut series.direct };
                samples.push(sample);
            }
        }
        progress::line(&format!("round {} of {}", round + 1, options.rounds), "", began.elapsed());
    }
    let memory = labs.iter().map(Lab::memory).collect::<Result<Vec<_>>>()?;
    Ok((all, memory.into_iter().flatten().collect()))
}

fn write(series: &[Series], memory: &[Value], adds: &Value) -> Result<()> {
    let mut text = report::table(series);
    text.push_str("\n| process | resident memory, KiB |\n|---|---|\n");
    for row in memory {
        text.push_str(&format!(
            "| {} | {} |\n",
            row["process"].as_str().unwrap_or("?"),
            row["kib"]
        ));
    }
    text.push_str(&format!(
        "\nCNI ADD: ours {:.1} ms, ptp + host-local {:.1} ms, ratio {:.2} (medians of {} interleaved pairs)\n",
        adds["ours_median_ms"].as_f64().unwrap_or(f64::NAN),
        adds["ptp_median_ms"].as_f64().unwrap_or(f64::NAN),
        adds["median_ratio"].as_f64().unwrap_or(f64::NAN),
        adds["ours_ms"].as_array().map_or(0, Vec::len),
    ));
    println!("\n{text}");
    let room = target().join("bench");
    fs::create_dir_all(&room)?;
    let mut figures = report::json(series);
    figures["memory"] = json!(memory);
    figures["cni_add"] = adds.clone();
    fs::write(room.join("bench.json"), serde_json::to_vec_pretty(&figures)?)?;
    fs::write(room.join("bench.md"), text)?;
    fs::write(room.join("bench.svg"), plot::svg(series))?;
    println!("written: {}/bench.{{json,md,svg}}", room.display());
    Ok(())
}
