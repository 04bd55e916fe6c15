//! What policies mean for a pod, as text.

use sluice_core::dump;
use sluice_core::policy::preposition;

use super::text::{rules, word};
use super::{ExplainArgs, Protocol};
use crate::api::{Direction, FlowPeer, FlowRow, JudgedEnd, JudgedFlow, PodPolicyRow, VerdictRow};

/// What policies mean for a pod.
pub fn pod(row: &PodPolicyRow, args: &ExplainArgs) -> String {
    let place = match row.address {
        Some(address) => address.to_string(),
        None if row.host_network => {
            "uses the network of its node: policies do not apply to it".to_owned()
        }
        None => match &row.node {
            Some(node) => format!("on node {node}: its agent also knows what is in the maps there"),
            None => "not on this node: its own node isolates it".to_owned(),
        },
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
    if let Some(flow) = &row.flow {
        text.push_str(&explained(flow, args));
    }
    text
}

/// What happens to the flow that was asked for.
fn explained(flow: &FlowRow, args: &ExplainArgs) -> String {
    let (direction, asked) = match &args.from {
        Some(from) => (Direction::Ingress, Some(from)),
        None => (Direction::Egress, args.to.as_ref()),
    };
    let protocol = dump::protocol(args.protocol.number());
    let target = |port: u16| match args.protocol {
        Protocol::Icmp => protocol.clone(),
        _ => format!("{protocol} {port}"),
    };
    let preposition = preposition(direction.into());
    let asked = match asked {
        Some(FlowPeer::Address(address)) => address.to_string(),
        Some(FlowPeer::Pod(name)) => name.clone(),
        None => String::new(),
    };
    let mut text = String::new();
    let head = format!("{} {preposition} {asked}", target(args.port.unwrap_or(0)));
    if let Some(by) = &flow.translated_by {
        text.push_str(&format!("{head} is translated by {by}\n"));
    }
    if let Some(problem) = &flow.problem {
        text.push_str(&format!("{head}: {problem}\n"));
    }
    for JudgedFlow { peer, port, verdict, other_end } in &flow.judged {
        let pods = match &verdict.peers[..] {
            [] => String::new(),
            pods => format!(" ({})", pods.join(", ")),
        };
        let head = format!("{} {preposition} {peer}{pods}", target(*port));
        text.push_str(&judged_end(&head, verdict));
        if let Some(JudgedEnd { pod, verdict }) = other_end {
            text.push_str(&judged_end(
                &format!("{} of {pod}", word(direction.opposite())),
                verdict,
            ));
        }
    }
    if flow.more > 0 {
        text.push_str(&format!("and {} more endpoints\n", flow.more));
    }
    text
}

/// A verdict with its reasons.
fn judged_end(head: &str, verdict: &VerdictRow) -> String {
    let verb = if verdict.allowed { "allowed" } else { "denied" };
    let reasons = verdict.reasons.iter().map(|reason| format!("  {reason}\n"));
    format!("{head}: {verb}\n{}", reasons.collect::<String>())
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
    use super::super::text::tests::{cluster_rule, rule};
    use super::*;
    use crate::api::Action;

    fn verdict(peers: &[&str], reason: &str) -> VerdictRow {
        VerdictRow {
            peers: peers.iter().map(ToString::to_string).collect(),
            reasons: vec![reason.to_owned()],
            ..VerdictRow::default()
        }
    }

    #[test]
    fn translated_flow_has_each_endpoint_with_both_ends() {
        let (row, args) = explained_row();
        let endpoint = |last: u8, other: Option<&str>| JudgedFlow {
            peer: [10, 244, 2, last].into(),
            port: 5353,
            verdict: VerdictRow { allowed: true, ..verdict(&["dns/a"], "a rule") },
            other_end: other
                .map(|pod| JudgedEnd { pod: pod.to_owned(), verdict: verdict(&[], "no rule") }),
        };
        let flow = FlowRow {
            translated_by: Some("Service dns/dns (ClusterIP)".to_owned()),
            judged: vec![endpoint(1, Some("dns/a")), endpoint(2, None)],
            more: 3,
            ..FlowRow::default()
        };
        let to = Some(FlowPeer::Address("10.96.0.10".parse().unwrap()));
        let args = ExplainArgs {
            from: None,
            to,
            port: Some(53),
            protocol: Protocol::Udp,
            pod: args.pod.clone(),
            namespace: None,
        };
        assert_eq!(
            explained(&flow, &args),
            "UDP 53 to 10.96.0.10 is translated by Service dns/dns (ClusterIP)\n\
             UDP 5353 to 10.244.2.1 (dns/a): allowed\n  a rule\n\
             ingress of dns/a: denied\n  no rule\n\
             UDP 5353 to 10.244.2.2 (dns/a): allowed\n  a rule\n\
             and 3 more endpoints\n"
        );
        let none = FlowRow { problem: Some("no endpoint".to_owned()), ..FlowRow::default() };
        assert_eq!(explained(&none, &args), "UDP 53 to 10.96.0.10: no endpoint\n");
        let far = PodPolicyRow { address: None, node: Some("n2".to_owned()), ..row };
        assert!(pod(&far, &args).starts_with("Pod shop/db-0 (on node n2: its agent also"));
    }

    /// A query about TCP 5432 of a pod from `10.244.2.9`, and its answer.
    fn explained_row() -> (PodPolicyRow, ExplainArgs) {
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
            node: None,
            flow: Some(FlowRow {
                judged: vec![JudgedFlow {
                    peer: "10.244.2.9".parse().unwrap(),
                    port: 5432,
                    verdict: verdict(&["lab/far"], "because"),
                    other_end: None,
                }],
                ..FlowRow::default()
            }),
        };
        let args = ExplainArgs {
            pod: row.pod.clone(),
            namespace: None,
            from: Some(FlowPeer::Address("10.244.2.9".parse().unwrap())),
            to: None,
            port: Some(5432),
            protocol: Protocol::Tcp,
        };
        (row, args)
    }

    #[test]
    fn explanation_of_a_pod_has_both_directions_and_the_verdict() {
        let (row, args) = explained_row();
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
        let (row, args) = explained_row();
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
        let (row, args) = explained_row();
        let deny = cluster_rule(Action::Deny, 0, &[("10.0.0.0/8", None)]);
        for (others, rest) in [(vec![], "allowed"), (vec!["shop/db".to_owned()], "denied")] {
            let egress = [vec!["restricted".to_owned()], others].concat();
            let names = egress.join(", ");
            let row = PodPolicyRow {
                ingress: vec![],
                egress,
                rules: vec![deny.clone()],
                flow: None,
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
