//! `sluice policy`: NetworkPolicies, what they mean for a pod, and problems of manifests.

mod check;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use sluice_abi::proto;

use super::ask;
use super::output::{Output, TableRow, print_json, print_rows, print_text};
use crate::api::{
    self, Direction, FlowQuestion, PodPolicyRow, PodQuestion, PolicyFilter, PolicyRow, Request,
    RuleRow,
};

/// Commands of `sluice policy`.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List NetworkPolicies, with the pods of this node that each selects.
    List(ListArgs),
    /// Show a NetworkPolicy: its rules, the pods that they match, its problems.
    Get {
        /// The policy.
        #[arg(value_name = "NAMESPACE/NAME", value_parser = full_name)]
        name: String,
    },
    /// Show what isolates a pod in each direction, and by which rules; with an address and a port,
    /// whether that passes and why.
    Explain(ExplainArgs),
    /// Check manifests without an agent: parts that are not valid, port names that no pod defines, ranges
    /// without a port, selectors that match no pod. Pods are those of the manifests, also of their
    /// Deployments and other workloads.
    Check {
        /// YAML files; `-` is standard input.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Flags of `sluice policy list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Show only policies whose `namespace/name` contains this text.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show only policies of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Flags of `sluice policy explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/POD", value_parser = full_name)]
    pod: String,
    /// Judge what the pod receives from this address: that of the client.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "to")]
    from: Option<IpAddr>,
    /// Judge what the pod sends to this address: behind a Service, that of the endpoint.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<IpAddr>,
    /// Destination port, at the endpoint.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
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
            };
            let rows: Vec<PolicyRow> = ask(socket, &Request::Policies(filter))?;
            print_rows(output, "NetworkPolicies", &rows)?;
        }
        Command::Get { name } => {
            let filter = PolicyFilter { name: Some(name.clone()), ..PolicyFilter::default() };
            let rows: Vec<PolicyRow> = ask(socket, &Request::Policies(filter))?;
            let Some(row) = rows.first() else { bail!("NetworkPolicy {name} does not exist") };
            print(output, row, policy_text)?;
        }
        Command::Explain(args) => {
            let question = PodQuestion { pod: args.pod.clone(), flow: flow(args)? };
            let rows: Vec<PodPolicyRow> = ask(socket, &Request::ExplainPod(question))?;
            let row = rows.first().context("the agent sent no row")?;
            if !row.known && row.address.is_none() {
                bail!("Pod {} does not exist, or the agent does not watch it", args.pod);
            }
            print(output, row, |row| pod_text(row, args))?;
        }
        Command::Check { files } => return check::run(files, output),
    }
    Ok(ExitCode::SUCCESS)
}

/// The flow that is asked for.
fn flow(args: &ExplainArgs) -> anyhow::Result<Option<FlowQuestion>> {
    let (direction, peer) = match (args.from, args.to) {
        (Some(from), _) => (Direction::Ingress, from),
        (None, Some(to)) => (Direction::Egress, to),
        (None, None) => return Ok(None),
    };
    if args.port == 0 && args.protocol != Protocol::Icmp {
        bail!("--port is required with --from and --to");
    }
    let protocol = args.protocol.number();
    Ok(Some(FlowQuestion { direction, peer, protocol, port: args.port }))
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

impl TableRow for PolicyRow {
    const HEADER: &'static [&'static str] =
        &["POLICY", "POD-SELECTOR", "DIRECTIONS", "RULES", "PODS-HERE", "PROBLEMS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.policy.clone(),
            selector(&self.pod_selector),
            directions(&self.directions),
            self.rule_count.to_string(),
            self.local_pods.to_string(),
            self.problems.len().to_string(),
        ]
    }
}

fn selector(text: &str) -> String {
    if text.is_empty() { "<all>".to_owned() } else { text.to_owned() }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn directions(directions: &[Direction]) -> String {
    directions.iter().map(|d| word(*d)).collect::<Vec<_>>().join(",")
}

/// A policy with its rules.
fn policy_text(row: &PolicyRow) -> String {
    let mut text = format!("NetworkPolicy {}\n", row.policy);
    let pods = row.pods.unwrap_or_default();
    text.push_str(&format!(
        "Pods: {} ({pods} in the cluster, {} on this node)\n",
        selector(&row.pod_selector),
        row.local_pods
    ));
    for direction in [Direction::Ingress, Direction::Egress] {
        if row.directions.contains(&direction) {
            text.push_str(&format!("Isolates {}; allows:\n", word(direction)));
            text.push_str(&rules_text(&row.rules, direction, false));
        }
    }
    for problem in &row.problems {
        text.push_str(&format!("Problem: {problem}\n"));
    }
    text
}

/// The rules of a direction, one a line.
fn rules_text(rules: &[RuleRow], direction: Direction, with_policy: bool) -> String {
    let of_direction = rules.iter().filter(|rule| rule.direction == direction);
    let (preposition, any) = match direction {
        Direction::Ingress => ("from", "anyone"),
        Direction::Egress => ("to", "anyone"),
    };
    let line = |rule: &RuleRow| {
        let ports = if rule.ports.is_empty() { "everything".into() } else { rule.ports.join(", ") };
        let peer = |peer: &api::PeerRow| match peer.pods {
            Some(1) => format!("{} (1 pod)", peer.peer),
            Some(count) => format!("{} ({count} pods)", peer.peer),
            None => peer.peer.clone(),
        };
        let peers = rule.peers.iter().map(peer).collect::<Vec<_>>().join("; ");
        let peers = if peers.is_empty() { any.to_owned() } else { peers };
        let policy = if with_policy { format!("{} ", rule.policy) } else { String::new() };
        format!("  {policy}{}[{}]: {ports} {preposition} {peers}\n", word(direction), rule.rule)
    };
    let text: String = of_direction.map(line).collect();
    if text.is_empty() { "  nothing\n".to_owned() } else { text }
}

/// What policies mean for a pod.
fn pod_text(row: &PodPolicyRow, args: &ExplainArgs) -> String {
    let place = match row.address {
        Some(address) => address.to_string(),
        None => "not on this node: its own node isolates it".to_owned(),
    };
    let mut text = format!("Pod {} ({place})\n", row.pod);
    if !row.known {
        text.push_str("The Pod object is not known yet.\n");
    }
    for (direction, isolating) in
        [(Direction::Ingress, &row.ingress), (Direction::Egress, &row.egress)]
    {
        let word = word(direction);
        if isolating.is_empty() {
            text.push_str(&format!("No policy isolates its {word}.\n"));
            continue;
        }
        text.push_str(&format!("Its {word} is isolated by {}; allowed:\n", isolating.join(", ")));
        text.push_str(&rules_text(&row.rules, direction, true));
    }
    let Some(verdict) = &row.verdict else { return text };
    let protocol = format!("{:?}", args.protocol).to_uppercase();
    let target = if args.protocol == Protocol::Icmp {
        protocol
    } else {
        format!("{protocol} {}", args.port)
    };
    let (preposition, peer) = match args.from {
        Some(from) => ("from", Some(from)),
        None => ("to", args.to),
    };
    let peer = peer.map(|p| p.to_string()).unwrap_or_default();
    let pods = if verdict.peers.is_empty() {
        String::new()
    } else {
        format!(" ({})", verdict.peers.join(", "))
    };
    let verb = if verdict.allowed { "allowed" } else { "denied" };
    text.push_str(&format!("{target} {preposition} {peer}{pods}: {verb}\n"));
    for reason in &verdict.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PeerRow;
    use crate::api::policy::VerdictRow;

    fn rule(direction: Direction, ports: &[&str], peers: &[(&str, Option<usize>)]) -> RuleRow {
        let peer = |(peer, pods): &(&str, _)| PeerRow { peer: (*peer).to_owned(), pods: *pods };
        RuleRow {
            policy: "shop/db".to_owned(),
            direction,
            rule: 0,
            ports: ports.iter().map(ToString::to_string).collect(),
            peers: peers.iter().map(peer).collect(),
        }
    }

    #[test]
    fn policy_is_shown_with_rules_and_problems() {
        let row = PolicyRow {
            policy: "shop/db".to_owned(),
            pod_selector: "role=db".to_owned(),
            directions: vec![Direction::Ingress, Direction::Egress],
            local_pods: 1,
            pods: Some(3),
            rule_count: 1,
            rules: vec![rule(
                Direction::Ingress,
                &["TCP 5432"],
                &[("role=api", Some(1)), ("10.0.0.0/8", None)],
            )],
            problems: vec!["a problem".to_owned()],
        };
        assert_eq!(
            policy_text(&row),
            "NetworkPolicy shop/db\nPods: role=db (3 in the cluster, 1 on this node)\n\
             Isolates ingress; allows:\n  ingress[0]: TCP 5432 from role=api (1 pod); 10.0.0.0/8\n\
             Isolates egress; allows:\n  nothing\nProblem: a problem\n"
        );
        assert_eq!(row.cells().join("|"), "shop/db|role=db|ingress,egress|1|1|1");
    }

    #[test]
    fn explanation_of_a_pod_has_both_directions_and_the_verdict() {
        let row = PodPolicyRow {
            pod: "shop/db-0".to_owned(),
            known: true,
            address: Some("10.244.1.7".parse().unwrap()),
            ingress: vec!["shop/db".to_owned()],
            egress: vec![],
            rules: vec![rule(Direction::Ingress, &[], &[])],
            verdict: Some(VerdictRow {
                allowed: false,
                peers: vec!["lab/far".to_owned()],
                reasons: vec!["because".to_owned()],
            }),
        };
        let args = ExplainArgs {
            pod: row.pod.clone(),
            from: Some("10.244.2.9".parse().unwrap()),
            to: None,
            port: 5432,
            protocol: Protocol::Tcp,
        };
        assert_eq!(
            pod_text(&row, &args),
            "Pod shop/db-0 (10.244.1.7)\nIts ingress is isolated by shop/db; allowed:\n  \
             shop/db ingress[0]: everything from anyone\nNo policy isolates its egress.\n\
             TCP 5432 from 10.244.2.9 (lab/far): denied\n  because\n"
        );
        assert!(flow(&ExplainArgs { port: 0, ..args }).is_err(), "a port is required");
    }

    #[test]
    fn names_without_a_namespace_are_in_default() {
        assert_eq!(full_name("db").as_deref(), Ok("default/db"));
        assert_eq!(full_name("shop/db").as_deref(), Ok("shop/db"));
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(full_name(text).is_err(), "{text}");
        }
    }
}
