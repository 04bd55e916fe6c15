//! Problems of ClusterNetworkPolicies.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::describe;
use super::super::pods::Pods;
use super::super::selection::subject_selects;
use super::super::term::{GroupKey, Scope, Term};
use super::super::{Finding, FindingReason};
use super::Checks;
use super::port_names::who_lacks;
use crate::index::Index;
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, Kind, PolicyPeer, PortSpec, Protocol, RuleAction,
};

/// A problem of a policy.
pub fn finding(policy: &ClusterNetworkPolicy, reason: FindingReason, text: String) -> Finding {
    Finding { kind: Kind::ClusterNetworkPolicy, object: policy.object_name(), reason, text }
}

/// Problems of one policy, given the pods that exist.
pub fn check(
    index: &Index,
    pods: &Pods,
    policy: &ClusterNetworkPolicy,
    checks: Checks,
) -> Vec<Finding> {
    let warnings = checks.warnings;
    let mut findings = Vec::new();
    let mut add = |reason, text| findings.push(finding(policy, reason, text));
    let subject = &policy.subject;
    if let Some(problem) = &subject.invalid {
        let effect =
            "every pod is selected, Accept rules match nothing, Pass rules deny everything";
        let text = format!("subject: {problem}: {effect}");
        add(FindingReason::InvalidPart, text);
    }
    let selected = || {
        pods.groups()
            .filter(|group| subject_selects(index, subject, &group.namespace, &group.labels))
    };
    let scope = Scope::Selected(subject.namespaces.clone());
    let is_known = checks.knows_pods_of(pods, &Term::Pods { scope, pods: subject.pods.clone() });
    if warnings && is_known && selected().next().is_none() {
        add(FindingReason::NoPod, "subject matches no pod: the policy has no effect".to_owned());
    }
    for direction in [PolicyDirection::Ingress, PolicyDirection::Egress] {
        for (at, rule) in policy.rules(direction).iter().enumerate() {
            let field = format!("{}[{at}]", describe::direction(direction));
            if let Some(problem) = &rule.invalid {
                let effect = match rule.action {
                    RuleAction::Accept => "the rule matches nothing",
                    RuleAction::Deny | RuleAction::Pass => "the rule denies everything",
                };
                add(FindingReason::InvalidPart, format!("{field}: {problem}: {effect}"));
                continue;
            }
            for name in names(rule) {
                let has = |group: &GroupKey| group.ports.iter().any(|port| port.name == *name);
                let who = match direction {
                    PolicyDirection::Ingress => {
                        let mut selected = selected().peekable();
                        let defined = !is_known || selected.peek().is_none() || selected.any(has);
                        (!defined).then_some("selected pod")
                    }
                    PolicyDirection::Egress => {
                        let of = |protocol| (protocol, Arc::clone(name));
                        let names = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(of);
                        who_lacks(index, pods, &Arc::default(), &rule.matches.peers, &names, checks)
                    }
                };
                if let Some(who) = who {
                    let problem = format!("no {who} has a port with the name {name}");
                    let text = format!("{field}.protocols: {problem}: it matches nothing");
                    add(FindingReason::UndefinedPort, text);
                }
            }
            if !warnings {
                continue;
            }
            let list = describe::preposition(direction);
            for (at, peer) in rule.matches.peers.iter().enumerate() {
                let nothing = match (peer, Term::new(peer, &Arc::default())) {
                    (PolicyPeer::Pods { .. }, Some(term)) => {
                        checks.knows_pods_of(pods, &term)
                            && !pods.groups().any(|g| term.selects(index, &g.namespace, &g.labels))
                    }
                    _ => false,
                };
                if nothing {
                    add(FindingReason::NoPod, format!("{field}.{list}[{at}] matches no pod"));
                }
            }
        }
    }
    findings
}

/// Names of ports in a rule, each once.
fn names(rule: &ClusterRule) -> BTreeSet<&Arc<str>> {
    let ports = rule.matches.ports.iter();
    ports
        .filter_map(|port| match &port.ports {
            PortSpec::Name(name) => Some(name),
            _ => None,
        })
        .collect()
}
