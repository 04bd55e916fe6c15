//! Manifests of random objects are read as the same objects, so that a printed case can be used.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use sluice_core::generate::{manifests, policy_objects, readable, shrink};
use sluice_core::model::{
    ClusterNetworkPolicy, ClusterRule, NetworkPolicy, Object, PolicyPeer, PolicyRule, PortSpec,
};

use crate::source::folder;

fn read(yaml: &str) -> Vec<Object> {
    folder::parse(yaml.as_bytes()).unwrap_or_else(|e| panic!("{e}:\n{yaml}"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn manifests_of_objects_are_read_as_these_objects(objects in policy_objects()) {
        let expected: Vec<Object> = objects.iter().map(readable).collect();
        let yaml = manifests(&objects, "a comment\nof two lines");
        prop_assert!(yaml.starts_with("# a comment\n# of two lines\n"), "{yaml}");
        let found = read(&yaml);
        // The texts about what is not valid are those of the reader.
        let without_texts: Vec<Object> = found.iter().map(readable).collect();
        prop_assert_eq!(&without_texts, &expected, "{}", yaml);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!(found == expected || !is_valid(expected), "{:?}\n{}", found, yaml);
        }
    }
}

/// Whether a policy has nothing that is not valid.
fn is_valid(object: &Object) -> bool {
    let own = |rule: &PolicyRule| {
        !rule.peers.iter().any(|peer| matches!(peer, PolicyPeer::Invalid(_)))
            && !rule.ports.iter().any(|port| matches!(port.ports, PortSpec::Invalid(_)))
    };
    match object {
        Object::NetworkPolicy(NetworkPolicy { ingress, egress, .. }) => {
            [ingress, egress].into_iter().flatten().flatten().all(own)
        }
        Object::ClusterNetworkPolicy(ClusterNetworkPolicy { ingress, egress, .. }) => {
            ingress.iter().chain(egress).all(ClusterRule::is_valid)
        }
        _ => true,
    }
}

#[test]
fn a_case_is_made_smaller_until_its_yaml_has_what_fails_and_nothing_else() {
    // As if `endPort` were wrong.
    let fails = |objects: &[Object]| {
        objects.iter().any(|object| match object {
            Object::NetworkPolicy(NetworkPolicy { ingress, egress, .. }) => {
                let mut rules = [ingress, egress].into_iter().flatten().flatten();
                rules.any(|rule| rule.ports.iter().any(|p| matches!(p.ports, PortSpec::Range(..))))
            }
            _ => false,
        })
    };
    let mut runner = TestRunner::new(Config::default());
    let (mut judged, mut sizes) = (0, 0);
    while judged < 20 {
        let objects = policy_objects().new_tree(&mut runner).unwrap().current();
        if !fails(&objects) {
            continue;
        }
        judged += 1;
        sizes += objects.len();
        let smallest = shrink(&objects, fails);
        let [Object::NetworkPolicy(policy)] = &smallest[..] else { panic!("{smallest:?}") };
        let [rules] =
            [&policy.ingress, &policy.egress].into_iter().flatten().collect::<Vec<_>>()[..]
        else {
            panic!("{policy:?}")
        };
        let [rule] = &rules[..] else { panic!("{policy:?}") };
        assert!(policy.pod_selector.is_empty() && rule.peers.is_empty(), "{policy:?}");
        assert_eq!(rule.ports.len(), 1, "{policy:?}");
        let yaml = manifests(&smallest, "expected: drop, found: pass");
        assert_eq!(read(&yaml), smallest, "{yaml}");
        assert!(yaml.contains("endPort: ") && yaml.lines().count() <= 18, "{yaml}");
    }
    assert!(sizes > judged * 2, "cases of one object do not show anything");
}
