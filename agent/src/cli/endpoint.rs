//! `sluice endpoint`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::maps;
use crate::cli::table::align;
use crate::cli::{Output, print_json};

/// Flags of `sluice endpoint`.
#[derive(clap::Args, Debug)]
pub struct EndpointArgs {
    /// Only pods whose address, device or name contains this.
    filter: Option<String>,
    /// Where the CNI binary keeps its leases.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/sluice/cni")]
    cni_state_dir: std::path::PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow {
    address: String,
    ifindex: u32,
    device: String,
    pod: String,
    pod_mac: String,
    container: String,
}

/// `sluice endpoint`.
pub fn endpoints(args: &EndpointArgs, output: Output) -> anyhow::Result<()> {
    let maps = maps()?;
    let leases: BTreeMap<IpAddr, crate::endpoints::Named> =
        crate::endpoints::names(&args.cni_state_dir).into_iter().map(|n| (n.address, n)).collect();
    let mut entries = maps.local_pods.entries()?;
    entries.sort_by_key(|(a, _)| *a);
    let mut rows: Vec<EndpointRow> = entries
        .into_iter()
        .map(|(addr, e)| {
            let address = IpAddr::from(addr);
            let lease = leases.get(&address);
            EndpointRow {
                address: address.to_string(),
                ifindex: e.ifindex,
                device: lease.map_or_else(|| "?".to_owned(), |l| l.device.clone()),
                pod: lease.map_or_else(|| "?".to_owned(), |l| l.pod.clone()),
                pod_mac: mac(e.pod_mac),
                container: lease.map(|l| l.container.clone()).unwrap_or_default(),
            }
        })
        .collect();
    if let Some(f) = &args.filter {
        rows.retain(|r| r.address.contains(f) || r.device.contains(f) || r.pod.contains(f));
    }
    if output == Output::Json {
        return print_json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|r| vec![r.address, r.pod, r.device, r.ifindex.to_string(), r.pod_mac])
        .collect();
    print!("{}", align(&["ADDRESS", "POD", "DEVICE", "IFINDEX", "MAC"], &cells));
    Ok(())
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}
