//! What selectors of policies select.

use crate::index::Index;
use crate::model::{LabelSelector, Labels, Namespace, Subject};

/// Whether a selector matches a namespace. One that is not known is matched by an empty selector only.
pub fn selects_namespace(index: &Index, selector: &LabelSelector, namespace: &str) -> bool {
    let matches = |namespace: &Namespace| {
        selector.matches(|key| namespace.labels.get(key).map(String::as_str))
    };
    selector.is_empty() || index.namespace(namespace).is_some_and(matches)
}

/// Whether the subject of a ClusterNetworkPolicy selects pods with these labels in a namespace.
pub fn subject_selects(index: &Index, subject: &Subject, namespace: &str, labels: &Labels) -> bool {
    selects_namespace(index, &subject.namespaces, namespace)
        && subject.pods.matches(|key| labels.get(key))
}
