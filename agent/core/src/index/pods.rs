//! Pods by name, with one copy of equal texts, labels and ports.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::interner::Interner;
use crate::model::{ContainerPort, Label, Labels, ObjectName, Pod};

/// All Pods.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    // The name is in the Pod: an entry of the table is a pointer.
    by_name: HashSet<ByName>,
    texts: Interner<str>,
    labels: Interner<Label>,
    label_sets: Interner<[Arc<Label>]>,
    ports: Interner<[ContainerPort]>,
}

/// A Pod that is found by its name.
#[derive(Clone, Debug)]
struct ByName(Box<Pod>);

impl Borrow<ObjectName> for ByName {
    fn borrow(&self) -> &ObjectName {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl Pods {
    /// The Pod of this name.
    pub fn get(&self, name: &ObjectName) -> Option<&Pod> {
        self.by_name.get(name).map(|pod| &*pod.0)
    }

    /// All Pods in any order.
    pub fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.iter().map(|pod| &*pod.0)
    }

    /// Adds or replaces a Pod; returns the former one.
    pub fn put(&mut self, mut pod: Pod) -> Option<Box<Pod>> {
        let known = self.by_name.get(&pod.name).map(|known| known.0.name.clone());
        match known {
            Some(name) => pod.name = name,
            None => self.texts.share(&mut pod.name.namespace),
        }
        if let Some(node) = &mut pod.node {
            self.texts.share(node);
        }
        pod.labels = self.labels(&pod);
        self.ports.share(&mut pod.ports);
        self.by_name.replace(ByName(Box::new(pod))).map(|former| former.0)
    }

    /// Removes a Pod.
    pub fn remove(&mut self, name: &ObjectName) -> Option<Box<Pod>> {
        self.by_name.take(name).map(|pod| pod.0)
    }

    /// The copy of the labels of a Pod. Pods of a ReplicaSet have the same; those of a StatefulSet have
    /// their own name among them.
    fn labels(&mut self, pod: &Pod) -> Labels {
        if let Some(known) = self.label_sets.get(&pod.labels.0) {
            return Labels(known);
        }
        let mut intern = |label: &Arc<Label>| {
            if let Some(known) = self.labels.get(label) {
                return known;
            }
            let value = if label.value == pod.name.name { &pod.name.name } else { &label.value };
            let (key, value) = (Arc::clone(&label.key), Arc::clone(value));
            let label = Label { key: self.texts.intern(key), value: self.texts.intern(value) };
            self.labels.intern(Arc::new(label))
        };
        let set: Arc<[Arc<Label>]> = pod.labels.0.iter().map(&mut intern).collect();
        Labels(self.label_sets.intern(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, app: &str) -> Pod {
        Pod {
            name: ObjectName::new("shop", name),
            node: Some("n1".into()),
            labels: [("app", app), ("pod", name)].into_iter().collect(),
            ..Pod::default()
        }
    }

    #[test]
    fn equal_parts_of_pods_are_shared() {
        let mut pods = Pods::default();
        assert!(pods.put(pod("a", "web")).is_none() && pods.put(pod("b", "web")).is_none());
        assert_eq!(pods.put(pod("a", "web")).map(|pod| *pod), Some(pod("a", "web")));
        let of = |name| pods.get(&ObjectName::new("shop", name)).expect("a Pod");
        let (a, b) = (of("a"), of("b"));
        assert_eq!((a, b), (&pod("a", "web"), &pod("b", "web")));
        assert!(Arc::ptr_eq(&a.name.namespace, &b.name.namespace));
        assert!(Arc::ptr_eq(a.node.as_ref().expect("node"), b.node.as_ref().expect("node")));
        assert!(Arc::ptr_eq(&a.labels.0[0], &b.labels.0[0]));
        assert!(Arc::ptr_eq(&a.labels.0[1].value, &a.name.name));
        assert_eq!(
            pods.remove(&ObjectName::new("shop", "a")).map(|pod| *pod),
            Some(pod("a", "web"))
        );
        assert_eq!(pods.iter().count(), 1);
    }
}
