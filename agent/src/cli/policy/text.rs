//! Policies and what they mean for a pod, as text.

use sluice_core::dump;
use sluice_core::policy::{direction_name, preposition};

use super::super::output::TableRow;
use super::{ExplainArgs, Protocol};
use crate::api::{Action, Direction, PeerRow, PodPolicyRow, PolicyRow, RuleRow, Tier};

impl TableRow for PolicyRow {
    const HEADER: &'static [&'static str] =
        &["POLICY", "TIER", "PRIORITY", "PODS", "DIRECTIONS", "RULES", "PODS-HERE", "PROBLEMS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.policy.clone(),
            tier(self.tier).to_owned(),
            self.priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string()),
            selector(&self.pod_selector),
            directions(&self.directions),
            self.rule_count.to_string(),
            self.local_pods.to_string(),
            self.problems.len().to_string(),
        ]
    }
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin => "Admin",
        Tier::NetworkPolicy => "NetworkPolicy",
        Tier::Baseline => "Baseline",
    }
}

fn selector(text: &str) -> String {
    if text.is_empty() { "<all>".to_owned() } else { text.to_owned() }
}

fn word(direction: Direction) -> &'static str {
    direction_name(direction.into())
}

/// A word at the start of a sentence.
fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

fn directions(directions: &[Direction]) -> String {
    directions.iter().map(|d| word(*d)).collect::<Vec<_>>().join(",")
}

/// A policy with its rules.
pub fn policy(row: &PolicyRow) -> String {
    let mut text = match row.priority {
        None => format!("NetworkPolicy {}\n", row.policy),
        Some(priority) => {
            let tier = tier(row.tier);
            format!("ClusterNetworkPolicy {}: tier {tier}, priority {priority}\n", row.policy)
        }
    };
    let pods = row.pods.unwrap_or_default();
    text.push_str(&format!(
        "Pods: {} ({pods} in the cluster, {} on this node)\n",
        selector(&row.pod_selector),
        row.local_pods
    ));
    for direction in [Direction::Ingress, Direction::Egress] {
        if row.directions.contains(&direction) {
            let word = word(direction);
            text.push_str(&match row.priority {
                None => format!("Isolates {word}; allows:\n"),
                Some(_) => {
                    let word = capitalized(word);
                    format!("{word} rules in order; the first match decides:\n")
                }
            });
            text.push_str(&rules(&row.rules, direction, false));
        }
    }
    for problem in &row.problems {
        text.push_str(&format!("Problem: {problem}\n"));
    }
    text
}

/// The rules of a direction, one a line.
fn rules(rules: &[RuleRow], direction: Direction, with_policy: bool) -> String {
    let of_direction = rules.iter().filter(|rule| rule.direction == direction);
    let line = |rule: &RuleRow| {
        let policy = if with_policy { format!("{} ", rule.policy) } else { String::new() };
        let name = rule.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("  {policy}{}[{}]{name}: {}\n", word(direction), rule.rule, effect(rule))
    };
    let text: String = of_direction.map(line).collect();
    if text.is_empty() { "  nothing\n".to_owned() } else { text }
}

/// "TCP 5432 from role=api (1 pod)", "deny everything to 169.254.169.254/32".
fn effect(rule: &RuleRow) -> String {
    if let Some(problem) = &rule.invalid {
        let effect = match rule.action {
            Some(Action::Accept) => "accept nothing",
            _ => "deny everything",
        };
        return format!("{effect} (not valid: {problem})");
    }
    let action = match rule.action {
        None => "",
        Some(Action::Accept) => "accept ",
        Some(Action::Deny) => "deny ",
        Some(Action::Pass) => "pass ",
    };
    let preposition = preposition(rule.direction.into());
    let ports = if rule.ports.is_empty() { "everything".into() } else { rule.ports.join(", ") };
    let peers = rule.peers.iter().map(peer).collect::<Vec<_>>().join("; ");
    let peers = if peers.is_empty() { "anyone".to_owned() } else { peers };
    format!("{action}{ports} {preposition} {peers}")
}

fn peer(PeerRow { peer, pods, nodes, does_not_fit }: &PeerRow) -> String {
    let count = match (pods, nodes) {
        (Some(1), _) => Some("1 pod".to_owned()),
        (Some(count), _) => Some(format!("{count} pods")),
        (None, Some(1)) => Some("1 node".to_owned()),
        (None, Some(count)) => Some(format!("{count} nodes")),
        (None, None) => None,
    };
    let problem = does_not_fit.then(|| "does not fit into the map".to_owned());
    let notes: Vec<String> = count.into_iter().chain(problem).collect();
    if notes.is_empty() { peer.clone() } else { format!("{peer} ({})", notes.join(", ")) }
}

/// What policies mean for a pod.
pub fn pod(row: &PodPolicyRow, args: &ExplainArgs) -> String {
    let place = match row.address {
        Some(address) => address.to_string(),
        None if row.host_network => {
            "uses the network of its node: policies do not apply to it".to_owned()
        }
        None => "not on this node: its own node isolates it".to_owned(),
    };
    let mut text = format!("Pod {} ({place})\n", row.pod);
    if !row.known {
        text.push_str("The Pod object is not known yet.\n");
    }
    for (direction, policies, closed) in [
        (Direction::Ingress, &row.ingress, &row.ingress_closed),
        (Direction::Egress, &row.egress, &row.egress_closed),
    ] {
        let word = word(direction);
        match closed {
            Some(reason) => text.push_str(&format!("Its {word} is closed: {reason}.\n")),
            None if policies.is_empty() => {
                text.push_str(&format!("No policy isolates its {word}.\n"));
            }
            None => {}
        }
        if policies.is_empty() {
            continue;
        }
        text.push_str(&judged(row, direction, policies));
        text.push_str(&rules(&row.rules, direction, true));
    }
    let Some(verdict) = &row.verdict else { return text };
    let protocol = dump::protocol(args.protocol.number());
    let target = if args.protocol == Protocol::Icmp {
        protocol
    } else {
        format!("{protocol} {}", args.port.unwrap_or(0))
    };
    let (direction, peer) = match args.from {
        Some(from) => (Direction::Ingress, Some(from)),
        None => (Direction::Egress, args.to),
    };
    let preposition = preposition(direction.into());
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

/// The line before the rules of a direction.
fn judged(row: &PodPolicyRow, direction: Direction, policies: &[String]) -> String {
    let word = word(direction);
    let has_cluster =
        row.rules.iter().any(|rule| rule.direction == direction && rule.action.is_some());
    let names = policies.join(", ");
    if has_cluster {
        // Names of NetworkPolicies have a namespace.
        let isolated = policies.iter().any(|name| name.contains('/'));
        let rest = if isolated { "denied" } else { "allowed" };
        format!("Its {word} is evaluated by {names} in this order; other traffic is {rest}:\n")
    } else {
        format!("Its {word} is isolated by {names}; allowed:\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::policy::VerdictRow;

    fn rule(direction: Direction, ports: &[&str], peers: &[(&str, Option<usize>)]) -> RuleRow {
        let peer = |(peer, pods): &(&str, _)| PeerRow {
            peer: (*peer).to_owned(),
            pods: *pods,
            nodes: None,
            does_not_fit: false,
        };
        RuleRow {
            policy: "shop/db".to_owned(),
            direction,
            rule: 0,
            name: None,
            action: None,
            invalid: None,
            ports: ports.iter().map(ToString::to_string).collect(),
            peers: peers.iter().map(peer).collect(),
        }
    }

    /// A rule of egress of a ClusterNetworkPolicy.
    fn cluster_rule(action: Action, at: usize, peers: &[(&str, Option<usize>)]) -> RuleRow {
        RuleRow {
            policy: "restricted".to_owned(),
            rule: at,
            action: Some(action),
            ..rule(Direction::Egress, &[], peers)
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
            ..PolicyRow::default()
        };
        assert_eq!(
            policy(&row),
            "NetworkPolicy shop/db\nPods: role=db (3 in the cluster, 1 on this node)\n\
             Isolates ingress; allows:\n  ingress[0]: TCP 5432 from role=api (1 pod); 10.0.0.0/8\n\
             Isolates egress; allows:\n  nothing\nProblem: a problem\n"
        );
        assert_eq!(row.cells().join("|"), "shop/db|NetworkPolicy|-|role=db|ingress,egress|1|1|1");
    }

    #[test]
    fn cluster_network_policy_is_shown_with_tier_and_actions() {
        let named = RuleRow {
            name: Some("control plane".to_owned()),
            peers: vec![PeerRow {
                peer: "nodes".to_owned(),
                pods: None,
                nodes: Some(2),
                does_not_fit: true,
            }],
            ..cluster_rule(Action::Pass, 1, &[])
        };
        let invalid = |action, at| RuleRow {
            invalid: Some("to: has no entry".to_owned()),
            ..cluster_rule(action, at, &[])
        };
        let row = PolicyRow {
            policy: "restricted".to_owned(),
            tier: Tier::Admin,
            priority: Some(10),
            pod_selector: "all pods of all namespaces".to_owned(),
            directions: vec![Direction::Egress],
            local_pods: 1,
            pods: Some(3),
            rule_count: 4,
            rules: vec![
                cluster_rule(Action::Deny, 0, &[("169.254.169.254/32", None)]),
                named,
                invalid(Action::Accept, 2),
                invalid(Action::Pass, 3),
            ],
            ..PolicyRow::default()
        };
        assert_eq!(
            policy(&row),
            "ClusterNetworkPolicy restricted: tier Admin, priority 10\n\
             Pods: all pods of all namespaces (3 in the cluster, 1 on this node)\n\
             Egress rules in order; the first match decides:\n  \
             egress[0]: deny everything to 169.254.169.254/32\n  \
             egress[1] control plane: pass everything to nodes (2 nodes, does not fit into the map)\n  \
             egress[2]: accept nothing (not valid: to: has no entry)\n  \
             egress[3]: deny everything (not valid: to: has no entry)\n"
        );
        assert_eq!(
            row.cells().join("|"),
            "restricted|Admin|10|all pods of all namespaces|egress|4|1|0"
        );
    }

    /// A query about TCP 5432 of a pod from `10.244.2.9`, and its answer.
    fn explained() -> (PodPolicyRow, ExplainArgs) {
        let row = PodPolicyRow {
            pod: "shop/db-0".to_owned(),
            known: true,
            host_network: false,
            address: Some("10.244.1.7".parse().unwrap()),
            ingress: vec!["shop/db".to_owned()],
            egress: vec![],
            ingress_closed: None,
            egress_closed: None,
            rules: vec![rule(Direction::Ingress, &[], &[])],
            verdict: Some(VerdictRow {
                allowed: false,
                peers: vec!["lab/far".to_owned()],
                reasons: vec!["because".to_owned()],
                rule: None,
            }),
        };
        let args = ExplainArgs {
            pod: row.pod.clone(),
            from: Some("10.244.2.9".parse().unwrap()),
            to: None,
            port: Some(5432),
            protocol: Protocol::Tcp,
        };
        (row, args)
    }

    #[test]
    fn explanation_of_a_pod_has_both_directions_and_the_verdict() {
        let (row, args) = explained();
        assert_eq!(
            pod(&row, &args),
            "Pod shop/db-0 (10.244.1.7)\nIts ingress is isolated by shop/db; allowed:\n  \
             shop/db ingress[0]: everything from anyone\nNo policy isolates its egress.\n\
             TCP 5432 from 10.244.2.9 (lab/far): denied\n  because\n"
        );
        assert!(
            super::super::flow(&ExplainArgs { port: Some(0), ..args }).is_err(),
            "a port is required"
        );
    }

    #[test]
    fn closed_direction_is_not_shown_as_open_and_host_network_not_as_isolated() {
        let (row, args) = explained();
        let closed = PodPolicyRow {
            ingress_closed: Some("full".to_owned()),
            egress_closed: Some("not known".to_owned()),
            ..row.clone()
        };
        let text = pod(&closed, &args);
        for line in ["Its ingress is closed: full.", "Its egress is closed: not known."] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("No policy isolates"), "{text}");
        let host = PodPolicyRow { host_network: true, address: None, ..row };
        assert!(pod(&host, &args).starts_with("Pod shop/db-0 (uses the network of its node"));
    }

    #[test]
    fn explanation_of_a_pod_has_the_order_of_policies_and_the_default() {
        let (row, args) = explained();
        let deny = cluster_rule(Action::Deny, 0, &[("10.0.0.0/8", None)]);
        for (others, rest) in [(vec![], "allowed"), (vec!["shop/db".to_owned()], "denied")] {
            let egress = [vec!["restricted".to_owned()], others].concat();
            let names = egress.join(", ");
            let row = PodPolicyRow {
                ingress: vec![],
                egress,
                rules: vec![deny.clone()],
                verdict: None,
                ..row.clone()
            };
            let expected = format!(
                "Its egress is evaluated by {names} in this order; other traffic is {rest}:\n  \
                 restricted egress[0]: deny everything to 10.0.0.0/8\n"
            );
            let text = pod(&row, &args);
            assert!(text.ends_with(&expected), "{text}");
        }
    }
}
