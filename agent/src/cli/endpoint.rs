//! `sluice endpoint`: pods of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;
use sluice_abi::{Addr, LocalPod};
use sluice_pod::device::mac_text;

use super::maps;
use super::output::{Output, TableRow, print_rows};
use crate::kernel::linux::pods::{self, Named};
use crate::paths;

/// Cell of a value that no lease names.
const UNKNOWN: &str = "<unknown>";

/// Flags of `sluice endpoint`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show only pods whose `namespace/name`, address or device contains this text.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Directory of the leases that the CNI binary writes.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_STATE_DIR)]
    cni_state_dir: PathBuf,
}

/// A pod of this node. Fields without a lease are absent.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodRow {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    ifindex: u32,
    pod_mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
}

impl PodRow {
    fn new(addr: Addr, entry: &LocalPod, lease: Option<&Named>) -> PodRow {
        PodRow {
            address: addr.into(),
            pod: lease.map(|l| l.pod.clone()),
            device: lease.map(|l| l.device.clone()),
            ifindex: entry.ifindex,
            pod_mac: mac_text(entry.pod_mac),
            container: lease.map(|l| l.container.clone()),
        }
    }

    fn contains(&self, text: &str) -> bool {
        let named = [&self.pod, &self.device].into_iter().flatten().any(|s| s.contains(text));
        named || self.address.to_string().contains(text)
    }
}

impl TableRow for PodRow {
    const HEADER: &'static [&'static str] = &["ADDRESS", "POD", "DEVICE", "IFINDEX", "MAC"];

    fn cells(&self) -> Vec<String> {
        let or_unknown = |s: &Option<String>| s.as_deref().unwrap_or(UNKNOWN).to_owned();
        vec![
            self.address.to_string(),
            or_unknown(&self.pod),
            or_unknown(&self.device),
            self.ifindex.to_string(),
            self.pod_mac.clone(),
        ]
    }
}

/// Lists the pods of this node.
///
/// # Errors
/// The maps cannot be read.
pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let entries = maps()?.local_pods.entries()?;
    let rows = rows(entries, pods::names(&args.cni_state_dir), args.filter.as_deref());
    print_rows(output, "pods", &rows)
}

fn rows(
    mut entries: Vec<(Addr, LocalPod)>,
    leases: Vec<Named>,
    filter: Option<&str>,
) -> Vec<PodRow> {
    let leases: BTreeMap<IpAddr, Named> = leases.into_iter().map(|l| (l.address, l)).collect();
    entries.sort_by_key(|(addr, _)| *addr);
    entries
        .into_iter()
        .map(|(addr, entry)| PodRow::new(addr, &entry, leases.get(&addr.into())))
        .filter(|row| filter.is_none_or(|text| row.contains(text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn example(filter: Option<&str>) -> Vec<PodRow> {
        let entry = |ifindex| LocalPod {
            ifindex,
            pod_mac: [0x0a, 0, 0, 0, 0, 0xff],
            ..LocalPod::default()
        };
        let entries =
            vec![(ip("10.244.1.9").into(), entry(9)), (ip("10.244.1.7").into(), entry(7))];
        let lease = Named {
            address: ip("10.244.1.7"),
            device: "slc7".to_owned(),
            pod: "shop/web".to_owned(),
            container: "c0ffee".to_owned(),
        };
        rows(entries, vec![lease], filter)
    }

    #[test]
    fn entries_are_joined_with_leases_in_the_order_of_addresses() {
        let cells: Vec<String> = example(None).iter().map(|r| r.cells().join(" ")).collect();
        assert_eq!(
            cells,
            [
                "10.244.1.7 shop/web slc7 7 0a:00:00:00:00:ff",
                "10.244.1.9 <unknown> <unknown> 9 0a:00:00:00:00:ff",
            ]
        );
        let json = serde_json::to_value(example(None)).unwrap();
        assert_eq!(json[0]["container"], "c0ffee");
        assert_eq!(json[1]["pod"], serde_json::Value::Null);
    }

    #[test]
    fn filter_compares_pod_device_and_address() {
        for (text, ifindexes) in [
            ("op/we", &[7][..]),
            ("slc7", &[7]),
            ("1.9", &[9]),
            ("10.244", &[7, 9]),
            ("c0ffee", &[]),
        ] {
            let found: Vec<u32> = example(Some(text)).iter().map(|r| r.ifindex).collect();
            assert_eq!(found, ifindexes, "{text}");
        }
    }
}
