//! A node and the changes that it goes through. A sequence that fails is made smaller and written as YAML, so
//! that it can be read, applied and checked.

use super::manifest::{lease_lines, manifests};
use super::shrink::shrink;
use crate::model::{Change, Object};
use crate::policy::LocalPod;

/// What changes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Objects.
    Objects(Vec<Change>),
    /// The pods of the node: these are all of them.
    Pods(Vec<LocalPod>),
}

/// A change of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceStep {
    /// The change.
    pub change: NodeChange,
    /// Seed of what a test draws for this change. It stays with the change when others are removed.
    pub seed: u64,
}

/// A node and its changes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySequence {
    /// Objects before the first change.
    pub objects: Vec<Object>,
    /// Pods of the node before the first change.
    pub pods: Vec<LocalPod>,
    /// Seed of what a test draws before the first change.
    pub seed: u64,
    /// The changes.
    pub steps: Vec<SequenceStep>,
}

impl PolicySequence {
    /// Removes parts as long as the sequence fails, until no single part can be removed: changes, objects of a
    /// change, pods of the node, objects, and the parts of objects that [`shrink`] removes. The result follows
    /// from the sequence and from `fails` alone.
    pub fn shrink(&self, mut fails: impl FnMut(&PolicySequence) -> bool) -> PolicySequence {
        let mut kept = self.clone();
        loop {
            let before = kept.clone();
            // The changes first: the fewer there are, the sooner a sequence has been tried.
            let of = kept.clone();
            kept.steps = fewest(&of.steps, |steps| {
                fails(&PolicySequence { steps: steps.to_vec(), ..of.clone() })
            });
            for at in 0..kept.steps.len() {
                let of = kept.clone();
                kept.steps[at].change =
                    of.steps[at].change.shrink(|change| fails(&of.with_change(at, change)));
            }
            let of = kept.clone();
            kept.pods = fewest(&of.pods, |pods| {
                fails(&PolicySequence { pods: pods.to_vec(), ..of.clone() })
            });
            let of = kept.clone();
            kept.objects = shrink(&of.objects, |objects| {
                fails(&PolicySequence { objects: objects.to_vec(), ..of.clone() })
            });
            if kept == before {
                return kept;
            }
        }
    }

    fn with_change(&self, at: usize, change: NodeChange) -> PolicySequence {
        let mut sequence = self.clone();
        sequence.steps[at].change = change;
        sequence
    }

    /// The objects as YAML documents after `comment`, then those of each change. What YAML does not have are
    /// comments: pods of the node and deletions.
    pub fn manifests(&self, comment: &str) -> String {
        let first = manifests(&self.objects, &format!("{comment}\n{}", lease_lines(&self.pods)));
        let steps = self.steps.iter().enumerate();
        let steps = steps.map(|(at, step)| step.change.manifests(&format!("change {}:", at + 1)));
        std::iter::once(first).chain(steps).collect::<Vec<_>>().join("---\n")
    }
}

impl NodeChange {
    fn shrink(&self, mut fails: impl FnMut(NodeChange) -> bool) -> NodeChange {
        let changes = match self {
            NodeChange::Pods(pods) => {
                let pods = fewest(pods, |pods| fails(NodeChange::Pods(pods.to_vec())));
                return NodeChange::Pods(pods);
            }
            NodeChange::Objects(changes) => changes,
        };
        let mut kept = fewest(changes, |changes| fails(NodeChange::Objects(changes.to_vec())));
        for at in 0..kept.len() {
            let Change::Apply(object) = &kept[at] else { continue };
            let others = kept.clone();
            let smallest = shrink(std::slice::from_ref(object), |objects| {
                let [object] = objects else { return false };
                let mut changes = others.clone();
                changes[at] = Change::Apply(object.clone());
                fails(NodeChange::Objects(changes))
            });
            kept[at] = smallest.into_iter().next().map_or(kept[at].clone(), Change::Apply);
        }
        NodeChange::Objects(kept)
    }

    fn manifests(&self, title: &str) -> String {
        match self {
            NodeChange::Pods(pods) if pods.is_empty() => {
                manifests(&[], &format!("{title} the node has no pods"))
            }
            NodeChange::Pods(pods) => {
                manifests(&[], &format!("{title} pods of the node\n{}", lease_lines(pods)))
            }
            NodeChange::Objects(changes) => {
                let mut comment = title.to_owned();
                let mut applied = Vec::new();
                for change in changes {
                    match change {
                        Change::Apply(object) => {
                            comment += &format!("\napply {:?} {}", object.kind(), object.name());
                            applied.push(object.clone());
                        }
                        Change::Delete(kind, name) => {
                            comment += &format!("\ndelete {kind:?} {name}");
                        }
                        Change::Retain(kind, names) => {
                            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                            comment += &format!("\ndelete every {kind:?} except {names:?}");
                        }
                        Change::Replace(kind, objects) => {
                            comment += &format!("\nreplace every {kind:?}");
                            applied.extend(objects.iter().filter(|o| o.kind() == *kind).cloned());
                        }
                    }
                }
                manifests(&applied, &comment)
            }
        }
    }
}

/// Removes items, one by one, as long as the others fail.
fn fewest<T: Clone>(items: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = items.to_vec();
    let mut at = 0;
    while at < kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(at);
        if fails(&fewer) { kept = fewer } else { at += 1 }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::generate::{leases, policy_change, policy_objects};
    use crate::model::{Kind, Labels, NetworkPolicy, ObjectName, Pod, PodPhase};
    use crate::properties::cases;

    fn node_change() -> impl Strategy<Value = NodeChange> {
        prop_oneof![
            4 => vec(policy_change(), 1..5).prop_map(NodeChange::Objects),
            1 => leases().prop_map(NodeChange::Pods),
        ]
    }

    fn sequence() -> impl Strategy<Value = PolicySequence> {
        let step =
            (node_change(), any::<u64>()).prop_map(|(change, seed)| SequenceStep { change, seed });
        (policy_objects(), leases(), vec(step, 0..12))
            .prop_map(|(objects, pods, steps)| PolicySequence { objects, pods, seed: 1, steps })
    }

    /// A sequence fails if a pod with this label exists before, later a policy with an egress rule is applied,
    /// and after that the node has a pod with this address.
    fn fails(sequence: &PolicySequence) -> bool {
        let has_label = |object: &Object| match object {
            Object::Pod(pod) => pod.labels.get("app") == Some("web"),
            _ => false,
        };
        let has_rule = |change: &Change| match change {
            Change::Apply(Object::NetworkPolicy(policy)) => {
                policy.egress.as_ref().is_some_and(|rules| !rules.is_empty())
            }
            _ => false,
        };
        let applied = sequence.steps.iter().position(|step| match &step.change {
            NodeChange::Objects(changes) => changes.iter().any(has_rule),
            NodeChange::Pods(_) => false,
        });
        let Some(applied) = applied else { return false };
        let has_pod = |step: &SequenceStep| match &step.change {
            NodeChange::Pods(pods) => pods.iter().any(|pod| pod.address == address()),
            NodeChange::Objects(_) => false,
        };
        sequence.objects.iter().any(has_label) && sequence.steps[applied..].iter().any(has_pod)
    }

    fn address() -> IpAddr {
        IpAddr::from([10, 244, 1, 3])
    }

    /// What every sequence that fails has, with other parts before, between and after.
    fn failing() -> impl Strategy<Value = PolicySequence> {
        let policy = policy_change().prop_filter("a policy with an egress rule", |change| {
            let step = SequenceStep { change: NodeChange::Objects(vec![change.clone()]), seed: 0 };
            let pods = SequenceStep { change: pods_with_address(), seed: 0 };
            fails(&PolicySequence {
                objects: vec![web()],
                steps: vec![step, pods],
                ..Default::default()
            })
        });
        (sequence(), policy, vec(policy_change(), 0..3), node_change()).prop_map(
            |(mut sequence, policy, others, between)| {
                let mut changes = others;
                changes.insert(changes.len() / 2, policy);
                let step = |change| SequenceStep { change, seed: 5 };
                sequence.objects.insert(sequence.objects.len() / 2, web());
                sequence.steps.insert(sequence.steps.len() / 2, step(NodeChange::Objects(changes)));
                sequence.steps.push(step(between));
                sequence.steps.push(step(pods_with_address()));
                sequence.steps.push(step(NodeChange::Pods(Vec::new())));
                sequence
            },
        )
    }

    fn web() -> Object {
        let labels = [("app", "web"), ("role", "db")].into_iter().collect::<Labels>();
        let name = ObjectName::new("shop", "seed");
        Object::Pod(Pod { name, labels, phase: PodPhase::Pending, ..Pod::default() })
    }

    fn pods_with_address() -> NodeChange {
        let pod = |index, address: [u8; 4]| LocalPod {
            index,
            generation: 1,
            address: address.into(),
            name: None,
            uid: None,
        };
        NodeChange::Pods(vec![pod(0, [10, 244, 1, 2]), pod(7, [10, 244, 1, 3])])
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: cases(30), failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn failing_sequence_is_made_smaller_until_each_part_is_needed(sequence in failing()) {
            prop_assert!(fails(&sequence));
            let smallest = sequence.shrink(fails);
            prop_assert!(fails(&smallest));
            prop_assert_eq!(&sequence.shrink(fails), &smallest, "not deterministic");
            let PolicySequence { objects, pods, steps, .. } = &smallest;
            let ([Object::Pod(web)], []) = (&objects[..], &pods[..]) else {
                panic!("{smallest:#?}")
            };
            let labels = [("app", "web")].into_iter().collect();
            let expected = Pod {
                name: web.name.clone(), labels, phase: PodPhase::Running, ..Pod::default()
            };
            prop_assert_eq!(web, &expected);
            let [SequenceStep { change: NodeChange::Objects(changes), .. },
                 SequenceStep { change: NodeChange::Pods(pods), .. }] = &steps[..] else {
                panic!("{smallest:#?}")
            };
            let [Change::Apply(Object::NetworkPolicy(policy))] = &changes[..] else {
                panic!("{smallest:#?}")
            };
            let expected = NetworkPolicy {
                name: policy.name.clone(),
                egress: Some([Default::default()].into()),
                ..NetworkPolicy::default()
            };
            prop_assert_eq!(policy, &expected);
            let addresses: Vec<IpAddr> = pods.iter().map(|pod| pod.address).collect();
            prop_assert_eq!(addresses, [address()]);
            // The seeds stay with their changes.
            prop_assert!(steps.iter().all(|step| sequence.steps.iter().any(|s| s.seed == step.seed)));
        }
    }

    #[test]
    fn nothing_stays_of_a_sequence_that_always_fails() {
        let step = SequenceStep { change: pods_with_address(), seed: 3 };
        let sequence = PolicySequence {
            objects: vec![web()],
            steps: vec![step.clone(), step],
            ..PolicySequence::default()
        };
        assert_eq!(sequence.shrink(|_| true), PolicySequence::default());
        // One that never fails again stays as it is.
        assert_eq!(sequence.shrink(|_| false), sequence);
    }

    #[test]
    fn sequence_is_written_with_its_changes_in_order() {
        let delete = Change::Delete(Kind::Pod, ObjectName::new("shop", "seed"));
        let retain = Change::Retain(Kind::NetworkPolicy, Vec::new());
        let changes = [
            pods_with_address(),
            NodeChange::Objects(vec![Change::Apply(web()), delete, retain]),
            NodeChange::Pods(Vec::new()),
        ];
        let steps = changes.map(|change| SequenceStep { change, seed: 0 });
        let sequence =
            PolicySequence { objects: vec![web()], steps: steps.into(), ..Default::default() };
        let text = sequence.manifests("expected: drop");
        let lines: Vec<&str> =
            text.lines().filter(|l| l.starts_with("# ") || *l == "---").collect();
        assert_eq!(
            lines,
            [
                "# expected: drop",
                "---",
                "# change 1: pods of the node",
                "# pod of the node: 10.244.1.2 not of Kubernetes, index 0/1",
                "# pod of the node: 10.244.1.3 not of Kubernetes, index 7/1",
                "---",
                "# change 2:",
                "# apply Pod shop/seed",
                "# delete Pod shop/seed",
                "# delete every NetworkPolicy except []",
                "---",
                "# change 3: the node has no pods",
            ]
        );
        assert_eq!(text.matches("kind: Pod").count(), 2);
    }
}
