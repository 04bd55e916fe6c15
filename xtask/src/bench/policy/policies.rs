//! NetworkPolicies that select the measured pods, as many as the value of a label says: a change of the
//! label lets another number of them apply. No I/O.
//!
//! Each isolates both directions. One of them allows the pods with the role `client` to send to those with
//! the role `server`; the others allow what a cluster's policies usually allow, and never the measured
//! traffic: blocks with an exception and a range of ports, the servers, other namespaces, and
//! blocks outside. Every block is another one, so that the tables have rows for each of them.

use serde_json::{Value, json};

use crate::bench::cluster::PORT;

/// Label of a pod with the number of policies that select it.
pub const SELECTED: &str = "policies";
/// Label of a pod: `client` or `server`.
pub const ROLE: &str = "role";
/// Largest number of policies, for which there are blocks.
pub const MAX: usize = 10_000;

/// Prefix of the names of policies that allow the measured traffic.
pub const ALLOW: &str = "allow-";

/// Name of the policy that allows the measured traffic.
pub fn allow(policies: usize) -> String {
    format!("{ALLOW}{policies}")
}

/// The rules of the policy that allows the measured traffic, to this port.
pub fn allow_rules(port: u16) -> Value {
    let ports = json!([{"protocol": "TCP", "port": port}, {"protocol": "UDP", "port": port}]);
    let pods = |role| json!([{"podSelector": {"matchLabels": {ROLE: role}}}]);
    json!({
        "ingress": [{"from": pods("client"), "ports": ports}],
        "egress": [{"to": pods("server"), "ports": ports}],
    })
}

/// All policies of pods that so many select.
pub fn all(policies: usize) -> Vec<Value> {
    (0..policies).map(|number| policy(policies, number)).collect()
}

/// One of the policies of pods that `policies` select. Number 0 allows the measured traffic.
pub fn policy(policies: usize, number: usize) -> Value {
    let (name, mut spec) = if number == 0 {
        (allow(policies), allow_rules(PORT))
    } else {
        (format!("other-{policies}-{number}"), other_rules(number))
    };
    spec["podSelector"] = json!({"matchLabels": {SELECTED: policies.to_string()}});
    spec["policyTypes"] = json!(["Ingress", "Egress"]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": name},
        "spec": spec,
    })
}

fn other_rules(number: usize) -> Value {
    let [.., high, low] = (number as u32).to_be_bytes();
    match number % 4 {
        // 100.64.0.0/10 is between customers and providers (RFC 6598).
        0 | 1 => {
            let first = 8_000 + number % 1_000;
            let prefix = format!("100.{}.{low}", 64 + high);
            json!({"ingress": [{
                "from": [{"ipBlock": {
                    "cidr": format!("{prefix}.0/24"), "except": [format!("{prefix}.16/28")],
                }}],
                "ports": [{"protocol": "TCP", "port": first, "endPort": first + 9}],
            }]})
        }
        // Selectors that match pods of the cluster: the servers, and CoreDNS.
        2 => {
            let roles = json!(["server", format!("role-{number}")]);
            let role = json!({"key": ROLE, "operator": "In", "values": roles});
            let dns = json!({
                "namespaceSelector":
                    {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchExpressions": [
                    {"key": "k8s-app", "operator": "In", "values": ["kube-dns", format!("dns-{number}")]},
                ]},
            });
            json!({
                "ingress": [{
                    "from": [{"podSelector": {"matchExpressions": [role]}}],
                    "ports": [{"protocol": "TCP", "port": 9_000 + number % 1_000}],
                }],
                "egress": [{"to": [dns], "ports": [{"protocol": "UDP", "port": 53}]}],
            })
        }
        // 203.0.113.0 and the like are too small; 198.18.0.0/15 is for benchmarks (RFC 2544).
        _ => {
            let cidr = format!("198.18.{}.{}/28", (number / 64) & 0xff, number / 4 % 16 * 16);
            json!({"egress": [{
                "to": [{"ipBlock": {"cidr": cidr}}],
                "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 5_432}],
            }]})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_policy_allows_the_measured_traffic_and_every_block_is_another_one() {
        let all = all(MAX);
        assert_eq!(all.len(), MAX);
        let (mut names, mut blocks) = (BTreeSet::new(), BTreeSet::new());
        let mut allowing = 0;
        for policy in &all {
            assert_eq!(policy["spec"]["podSelector"]["matchLabels"][SELECTED], "10000");
            assert!(names.insert(policy["metadata"]["name"].to_string()));
            let text = policy["spec"].to_string();
            allowing += usize::from(text.contains(&format!("\"port\":{PORT}")));
            for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
                let cidr = &policy["spec"][direction][0][peers][0]["ipBlock"]["cidr"];
                if let Some(cidr) = cidr.as_str() {
                    assert!(blocks.insert(cidr.to_owned()), "{cidr}");
                }
            }
        }
        assert_eq!((allowing, blocks.len()), (1, 7_499));
        assert_eq!(all[0]["metadata"]["name"], allow(MAX));
    }

    #[test]
    fn blocks_and_ranges_are_valid() {
        for policy in all(MAX) {
            for rule in policy["spec"]["ingress"].as_array().into_iter().flatten() {
                if let Some(last) = rule["ports"][0]["endPort"].as_u64() {
                    assert!(rule["ports"][0]["port"].as_u64().is_some_and(|first| first < last));
                }
                let Some(cidr) = rule["from"][0]["ipBlock"]["cidr"].as_str() else { continue };
                let address = cidr.strip_suffix("/24").expect("a block of 256 addresses");
                let address: std::net::Ipv4Addr = address.parse().expect("an address");
                assert!(matches!(address.octets(), [100, 64..=127, _, 0]), "{cidr}");
            }
        }
    }
}
