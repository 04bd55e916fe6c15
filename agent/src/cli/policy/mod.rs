//! `sluice policy`: NetworkPolicies and ClusterNetworkPolicies, what they mean for a pod, and problems of
//! manifests.

mod check;
mod explain;
mod manifests;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use sluice_abi::proto;

use super::output::{Output, print_json, print_rows, print_text};
use super::{UsageError, ask};
use crate::api::{
    Direction, FlowPeer, FlowQuery, PodPolicyRow, PodQuery, PolicyFilter, PolicyRow, Request, Tier,
};

/// Commands of `sluice policy`.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List NetworkPolicies and ClusterNetworkPolicies in the order in which they are evaluated, with the
    /// pods of this node that each selects.
    List(ListArgs),
    /// Show a policy: its rules, the pods that they match, its problems.
    Get {
        /// The NetworkPolicy; a name alone is that of a ClusterNetworkPolicy, or of a NetworkPolicy in
        /// `default`.
        #[arg(value_name = "[NAMESPACE/]NAME", value_parser = policy_name)]
        name: String,
        /// Namespace of a name without one.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// Show what isolates a pod in each direction, and by which rules; with an address and a port,
    /// whether that passes and why.
    Explain(ExplainArgs),
    /// Check manifests without an agent: parts that are not valid, ranges without a port, rules without their
    /// policy type; in namespaces that have pods in the manifests, also port names that no pod defines and
    /// selectors that match no pod. Pods are also those of Deployments and other workloads.
    Check {
        /// YAML files; `-` is standard input.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Flags of `sluice policy list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Show only policies whose `namespace/name`, or name without a namespace, contains this text.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show only NetworkPolicies of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Show only policies that select this pod.
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = full_name)]
    pod: Option<String>,
}

/// Flags of `sluice policy explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The pod.
    #[arg(value_name = "[NAMESPACE/]POD", value_parser = policy_name)]
    pod: String,
    /// Namespace of pods without one; `default` if it is not given.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Judge what the pod receives from this client: its address, or a pod.
    #[arg(long, value_name = "ADDRESS|NAMESPACE/POD", value_parser = peer, conflicts_with = "to")]
    from: Option<FlowPeer>,
    /// Judge what the pod sends to this address or pod. If a Service, a NodePort or a hostPort has the address
    /// and port, its endpoints are judged.
    #[arg(long, value_name = "ADDRESS|NAMESPACE/POD", value_parser = peer)]
    to: Option<FlowPeer>,
    /// Destination port; of a pod, that of its container.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Protocol.
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
}

/// Protocols that can be asked for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP.
    Icmp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Sctp => proto::SCTP,
            Protocol::Icmp => proto::ICMP,
        }
    }
}

/// `namespace/name`; a name alone is in `default`, as for kubectl.
fn full_name(text: &str) -> Result<String, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [name] if !name.is_empty() => Ok(format!("default/{name}")),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

/// A name with its namespace: `namespace`, or `default`, if it has none.
fn in_namespace(name: &str, namespace: Option<&str>) -> String {
    match name.contains('/') {
        true => name.to_owned(),
        false => format!("{}/{name}", namespace.unwrap_or("default")),
    }
}

/// An address or a pod.
fn peer(text: &str) -> Result<FlowPeer, String> {
    match text.parse() {
        Ok(address) => Ok(FlowPeer::Address(address)),
        Err(_) => policy_name(text).map(FlowPeer::Pod),
    }
}

/// `namespace/name`, or a name.
fn policy_name(text: &str) -> Result<String, String> {
    full_name(text).map(|_| text.to_owned())
}

/// Runs a command.
///
/// # Errors
/// The agent does not answer, or an object does not exist.
pub fn run(socket: &Path, command: &Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => {
            let filter = PolicyFilter {
                text: args.filter.clone(),
                namespace: args.namespace.clone(),
                name: None,
                pod: args.pod.clone(),
            };
            let rows = in_order(ask(socket, &Request::Policies(filter))?);
            print_rows(output, "policies", &rows)?;
        }
        Command::Get { name, namespace } => {
            let name = &match namespace {
                Some(namespace) => in_namespace(name, Some(namespace)),
                None => name.clone(),
            };
            let Some(row) = get(socket, name)? else { bail!("policy {name} does not exist") };
            print(output, &row, text::policy)?;
        }
        Command::Explain(args) => {
            let pod = in_namespace(&args.pod, args.namespace.as_deref());
            let query = PodQuery { pod, flow: flow(args)? };
            let rows: Vec<PodPolicyRow> = ask(socket, &Request::ExplainPod(query))?;
            let row = rows.first().context("the agent sent no row")?;
            if !row.known && row.address.is_none() {
                bail!("Pod {} does not exist, or the agent does not watch it", args.pod);
            }
            print(output, row, |row| explain::pod(row, args))?;
        }
        Command::Check { files } => return check::run(files, output),
    }
    Ok(ExitCode::SUCCESS)
}

/// The policy of this name. A name alone is that of a ClusterNetworkPolicy if it exists.
fn get(socket: &Path, name: &str) -> anyhow::Result<Option<PolicyRow>> {
    let mut names = vec![name.to_owned()];
    if !name.contains('/') {
        names.push(format!("default/{name}"));
    }
    for name in names {
        let filter = PolicyFilter { name: Some(name), ..PolicyFilter::default() };
        let rows: Vec<PolicyRow> = ask(socket, &Request::Policies(filter))?;
        if let Some(row) = rows.into_iter().next() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Policies in the order in which they are evaluated.
fn in_order(mut rows: Vec<PolicyRow>) -> Vec<PolicyRow> {
    fn order(row: &PolicyRow) -> (Tier, Option<u16>, &str) {
        (row.tier, row.priority, &row.policy)
    }
    rows.sort_by(|a, b| order(a).cmp(&order(b)));
    rows
}

/// The flow that is asked for.
fn flow(args: &ExplainArgs) -> anyhow::Result<Option<FlowQuery>> {
    let (direction, peer) = match (args.from.clone(), args.to.clone()) {
        (Some(from), _) => (Direction::Ingress, from),
        (None, Some(to)) => (Direction::Egress, to),
        (None, None) => return Ok(None),
    };
    let port = match args.port {
        None | Some(0) if args.protocol != Protocol::Icmp => {
            return Err(UsageError::new("--port is required with --from and --to").into());
        }
        port => port.unwrap_or(0),
    };
    let peer = match peer {
        FlowPeer::Pod(name) => FlowPeer::Pod(in_namespace(&name, args.namespace.as_deref())),
        address @ FlowPeer::Address(_) => address,
    };
    let protocol = args.protocol.number();
    Ok(Some(FlowQuery { direction, peer, protocol, port }))
}

fn print<R: serde::Serialize>(
    output: Output,
    row: &R,
    text: impl Fn(&R) -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Json => print_json(row),
        Output::Text => print_text(&text(row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_listed_in_the_order_in_which_they_are_judged() {
        let row = |tier, priority, policy: &str| PolicyRow {
            policy: policy.to_owned(),
            tier,
            priority,
            ..PolicyRow::default()
        };
        let rows = in_order(vec![
            row(Tier::Baseline, Some(0), "a"),
            row(Tier::Admin, Some(100), "a"),
            row(Tier::Admin, Some(20), "b"),
            row(Tier::NetworkPolicy, None, "shop/b"),
            row(Tier::NetworkPolicy, None, "lab/c"),
            row(Tier::Admin, Some(100), "0"),
        ]);
        let names: Vec<&str> = rows.iter().map(|row| &*row.policy).collect();
        assert_eq!(names, ["b", "0", "a", "lab/c", "shop/b", "a"]);
    }

    #[test]
    fn pods_without_a_namespace_are_in_default() {
        assert_eq!(full_name("db").as_deref(), Ok("default/db"));
        assert_eq!(policy_name("db").as_deref(), Ok("db"));
        assert_eq!(full_name("shop/db").as_deref(), Ok("shop/db"));
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(full_name(text).is_err() && policy_name(text).is_err(), "{text}");
            assert!(peer(text).is_err(), "{text}");
        }
        let address = |text: &str| FlowPeer::Address(text.parse().unwrap());
        assert_eq!(peer("10.244.1.7"), Ok(address("10.244.1.7")));
        assert_eq!(peer("fd00::7"), Ok(address("fd00::7")));
        assert_eq!(peer("shop/db"), Ok(FlowPeer::Pod("shop/db".to_owned())));
        assert_eq!(in_namespace("db", None), "default/db");
        assert_eq!(in_namespace("db", Some("shop")), "shop/db");
        assert_eq!(in_namespace("lab/db", Some("shop")), "lab/db");
    }
}
