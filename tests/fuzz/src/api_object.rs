//! Objects of the API server as JSON, as each kind.
//!
//! An object that converts has a name and values within the limits of the model, and the same
//! value after its JSON was decoded and encoded again. An error names the kind.

use serde_json::Value;
use sluice_agent::source::convert::{from_json, kind_name};
use sluice_core::model::{
    ClusterNetworkPolicy, ClusterRule, Kind, NetworkPolicy, Object, PolicyPeer, RuleAction,
};

/// Longest timeout of session affinity in the API, in seconds.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

pub(super) fn run(data: &[u8]) {
    // `None` also for values that only an ignored field can have, such as 1e999.
    let json: Option<Value> = serde_json::from_slice(data).ok();
    let again = json.as_ref().map(|value| serde_json::to_vec(value).expect("a value has JSON"));
    for kind in Kind::ALL {
        match from_json(kind, data) {
            Ok(object) => {
                assert_eq!(object.kind(), kind);
                check(&object);
                if let (Object::NetworkPolicy(policy), Some(json)) = (&object, &json) {
                    check_is_not_opened(policy, json);
                }
                if let (Object::ClusterNetworkPolicy(policy), Some(json)) = (&object, &json) {
                    check_actions(policy, json);
                }
                if let Some(again) = &again {
                    assert_eq!(from_json(kind, again).as_ref(), Ok(&object));
                }
            }
            Err(e) => assert!(e.to_string().starts_with(kind_name(kind)), "{e}"),
        }
    }
}

/// Checks what the rest of the agent relies on.
pub(super) fn check(object: &Object) {
    assert!(!object.name().name.is_empty());
    match object {
        Object::Node(node) => {
            assert!(node.internal_ips.iter().all(|ip| *ip == ip.to_canonical()));
            assert!(node.pod_cidrs.iter().all(|cidr| *cidr == cidr.trunc()));
            assert_ne!(node.zone.as_deref(), Some(""));
        }
        Object::Service(service) => {
            assert!(service.cluster_ips.iter().all(|ip| *ip == ip.to_canonical()));
            let seconds = service.session_affinity;
            assert!(seconds.is_none_or(|s| (1..=MAX_AFFINITY_SECONDS).contains(&s)));
        }
        Object::EndpointSlice(slice) => {
            assert!(slice.endpoints.iter().all(|e| e.address == e.address.to_canonical()));
            assert!(slice.endpoints.iter().all(|e| e.node_name.as_deref() != Some("")));
            assert_ne!(slice.service.as_deref(), Some(""));
        }
        Object::Pod(pod) => {
            assert!(pod.ips.iter().all(|ip| ip == ip.to_canonical()));
            assert_ne!(pod.node.as_deref(), Some(""));
        }
        Object::ServiceCidr(o) => assert!(o.cidrs.iter().all(|cidr| *cidr == cidr.trunc())),
        Object::NetworkPolicy(policy) => {
            assert!(policy.ingress.is_some() || policy.egress.is_some(), "isolates nothing");
            let rules = [&policy.ingress, &policy.egress].into_iter().flatten().flatten();
            for block in rules.flat_map(|rule| &rule.peers) {
                if let PolicyPeer::Block(block) = block {
                    assert_eq!(block.cidr, block.cidr.trunc());
                    assert!(block.except.iter().all(|e| block.cidr.contains(e)));
                }
            }
        }
        Object::ClusterNetworkPolicy(policy) => {
            assert!(policy.priority <= 1000);
            for rule in policy.ingress.iter().chain(&policy.egress) {
                assert!(rule.invalid.is_some() || !rule.matches.peers.is_empty());
                if policy.subject.invalid.is_some() {
                    assert!(rule.invalid.is_some() || rule.action == RuleAction::Deny);
                }
            }
        }
        Object::Namespace(_) => {}
    }
}

/// A list with entries never becomes an empty one, which admits everything, and no rule appears.
fn check_is_not_opened(policy: &NetworkPolicy, json: &Value) {
    let lists = [("ingress", "from", &policy.ingress), ("egress", "to", &policy.egress)];
    for (direction, peers, rules) in lists {
        let Some(rules) = rules else { continue };
        let written = json["spec"][direction].as_array();
        for (at, rule) in rules.iter().enumerate() {
            let written = written.and_then(|rules| rules.get(at)).unwrap_or(&Value::Null);
            if let [PolicyPeer::Invalid(_)] = rule.peers[..] {
                continue;
            }
            assert!(written.is_object(), "{direction}[{at}] is not written");
            let has_entries = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
            assert_eq!(has_entries(&written[peers]), !rule.peers.is_empty());
            assert_eq!(has_entries(&written["ports"]), !rule.ports.is_empty());
        }
    }
}

/// No rule is lost, and only one that is written as Accept accepts; a valid one has its peers and ports.
fn check_actions(policy: &ClusterNetworkPolicy, json: &Value) {
    let lists = [("ingress", "from", &policy.ingress), ("egress", "to", &policy.egress)];
    for (direction, peers, rules) in lists {
        let written = json["spec"][direction].as_array();
        assert!(rules.len() >= written.map_or(0, Vec::len), "{direction}");
        for (at, ClusterRule { action, matches, invalid, .. }) in rules.iter().enumerate() {
            let written = written.and_then(|rules| rules.get(at)).unwrap_or(&Value::Null);
            let word = written["action"].as_str();
            assert_eq!(*action == RuleAction::Accept, word == Some("Accept"), "{direction}[{at}]");
            if invalid.is_none() {
                let count = |list: &Value| list.as_array().map_or(0, Vec::len);
                assert!(matches.peers.len() >= count(&written[peers]).max(1));
                assert!(matches.ports.len() >= count(&written["protocols"]));
            }
        }
    }
}
