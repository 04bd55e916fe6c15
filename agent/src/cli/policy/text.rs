//! Policies and what they mean for a pod, as text.

use sluice_core::policy::{direction_name, preposition};

use super::super::output::TableRow;
use crate::api::{Action, Direction, PeerRow, PolicyRow, RuleRow, Tier};

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

/// The name of a direction.
pub fn word(direction: Direction) -> &'static str {
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
    for warning in &row.warnings {
        text.push_str(&format!("Warning: {warning}\n"));
    }
    text
}

/// The rules of a direction, one a line.
pub fn rules(rules: &[RuleRow], direction: Direction, with_policy: bool) -> String {
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

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A rule of a NetworkPolicy.
    pub fn rule(direction: Direction, ports: &[&str], peers: &[(&str, Option<usize>)]) -> RuleRow {
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
    pub fn cluster_rule(action: Action, at: usize, peers: &[(&str, Option<usize>)]) -> RuleRow {
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
            warnings: vec!["a warning".to_owned()],
            ..PolicyRow::default()
        };
        assert_eq!(
            policy(&row),
            "NetworkPolicy shop/db\nPods: role=db (3 in the cluster, 1 on this node)\n\
             Isolates ingress; allows:\n  ingress[0]: TCP 5432 from role=api (1 pod); 10.0.0.0/8\n\
             Isolates egress; allows:\n  nothing\nProblem: a problem\nWarning: a warning\n"
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
}
