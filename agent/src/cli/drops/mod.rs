//! `sluice drops`: dropped packets and, for policies, why.

mod all_nodes;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::ask;
use super::output::{Output, print_json, print_text};
use crate::api::{DropRow, EndRow, Request};

/// Time between two requests with `--follow`.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `sluice drops`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show further drops as they come.
    #[arg(short, long)]
    follow: bool,
    /// Show only drops whose lines contain this text: a pod, a label, an address, a reason, a policy.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show drops of all nodes: run this command in each agent pod through the API server, with your
    /// kubeconfig; requires `list` on pods and `create` on pods/exec in the namespace of the agents.
    #[arg(short = 'A', long)]
    all_nodes: bool,
    /// Namespace of the agents, for --all-nodes.
    #[arg(long, value_name = "NAME", default_value = "sluice-system", requires = "all_nodes")]
    agent_namespace: String,
}

/// Prints the last drops, and further ones.
///
/// # Errors
/// The agent does not answer.
pub fn run(socket: &Path, args: &Args, output: Output) -> anyhow::Result<()> {
    if args.all_nodes {
        return all_nodes::run(args, output);
    }
    let mut from = 0;
    loop {
        let rows: Vec<DropRow> = ask(socket, &Request::Drops { from })?;
        from = rows.last().map_or(from, |last| last.sequence + 1);
        print(rows, args, output)?;
        if !args.follow {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Prints the rows that are wanted.
fn print(mut rows: Vec<DropRow>, args: &Args, output: Output) -> anyhow::Result<()> {
    rows.retain(|row| args.filter.as_deref().is_none_or(|text| line(row).contains(text)));
    match output {
        Output::Json if !args.follow => print_json(&rows),
        Output::Json => {
            for row in &rows {
                let json = serde_json::to_string(row).context("JSON of a row")?;
                print_text(&format!("{json}\n"))?;
            }
            Ok(())
        }
        Output::Text if rows.is_empty() && !args.follow => {
            eprintln!("No dropped packets found.");
            Ok(())
        }
        Output::Text => print_text(&rows.iter().map(line).collect::<String>()),
    }
}

/// A drop in a line, with one for the labels of its pods and for each reason.
fn line(row: &DropRow) -> String {
    let end = |pods: &[EndRow], address: IpAddr, port: u16| {
        let address = match port {
            0 => address.to_string(),
            port => SocketAddr::new(address, port).to_string(),
        };
        let names = pods.iter().map(|pod| pod.pod.as_str()).collect::<Vec<_>>().join(",");
        if names.is_empty() { address } else { format!("{names} {address}") }
    };
    let DropRow { at, node, reason, protocol, source_pods, destination_pods, .. } = row;
    let source = end(source_pods, row.source, row.source_port);
    let destination = end(destination_pods, row.destination, row.destination_port);
    let node = node.as_deref().map(|node| format!(" {node}")).unwrap_or_default();
    let packet = if row.reply { "reply, " } else { "" };
    let place = format!("{} of {}, {packet}{} bytes", row.program, row.device, row.length);
    let mut text = format!("{at}{node} {reason} {protocol} {source} -> {destination}, {place}");
    if !row.policies.is_empty() {
        text.push_str(&format!(", isolated by {}", row.policies.join(", ")));
    }
    text.push('\n');
    for EndRow { pod, labels } in source_pods.iter().chain(destination_pods) {
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels = labels.collect::<Vec<_>>().join(",");
        if !labels.is_empty() {
            text.push_str(&format!("  {pod} has {labels}\n"));
        }
    }
    for reason in &row.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row() -> DropRow {
        let pod = |name: &str, labels: &[(&str, &str)]| EndRow {
            pod: name.to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        DropRow {
            sequence: 1,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            reason: "policy_ingress".to_owned(),
            protocol: "TCP".to_owned(),
            source: "10.244.2.9".parse().unwrap(),
            source_port: 40_000,
            destination: "10.244.1.7".parse().unwrap(),
            destination_port: 5432,
            program: "to_pod".to_owned(),
            device: "slc7".to_owned(),
            length: 74,
            reply: false,
            node: Some("n2".to_owned()),
            source_pods: vec![pod("lab/far", &[])],
            destination_pods: vec![pod("shop/db-0", &[("app", "db"), ("tier", "back")])],
            pod: Some("shop/db-0".to_owned()),
            direction: Some(crate::api::Direction::Ingress),
            policies: vec!["shop/db".to_owned()],
            reasons: vec!["because".to_owned()],
        }
    }

    #[test]
    fn drop_by_policy_is_shown_with_pods_labels_policies_and_reasons() {
        assert_eq!(
            line(&row()),
            "2026-01-01T00:00:00.000Z n2 policy_ingress TCP lab/far 10.244.2.9:40000 -> \
             shop/db-0 10.244.1.7:5432, to_pod of slc7, 74 bytes, isolated by shop/db\n  shop/db-0 has app=db,tier=back\n  \
             because\n"
        );
    }

    #[test]
    fn dropped_reply_is_named_as_such() {
        let row = DropRow { reply: true, program: "from_pod".to_owned(), ..row() };
        let text = line(&row);
        assert!(
            text.contains(" -> shop/db-0 10.244.1.7:5432, from_pod of slc7, reply, 74 bytes"),
            "{text}"
        );
    }
}
