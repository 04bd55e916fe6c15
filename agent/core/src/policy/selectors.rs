//! Selectors of pods, found by what they require: a namespace or a label of it, and a label of the pod.
//! A pod is compared with those selectors only.

use std::collections::HashMap;
use std::sync::Arc;

use super::numbers::NumbersBy;
use super::term::{Scope, Term, required_label};
use crate::index::Index;
use crate::model::{Label, Labels};

/// Which namespaces a selector can select.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Any,
    Namespace(Arc<str>),
    Labelled(Arc<str>, Arc<str>),
}

/// Numbers of selectors.
#[derive(Clone, Debug, Default)]
pub struct Selectors(HashMap<Place, NumbersBy<Option<Arc<Label>>>>);

impl Selectors {
    /// Adds a selector; terms of addresses select no pod.
    pub fn insert(&mut self, selector: &Term, number: u32) {
        let of_place = self.0.entry(place(selector)).or_default();
        for label in labels(selector) {
            of_place.insert(label, number);
        }
    }

    /// Removes a selector.
    pub fn remove(&mut self, selector: &Term, number: u32) {
        let place = place(selector);
        let Some(of_place) = self.0.get_mut(&place) else { return };
        for label in labels(selector) {
            of_place.remove(&label, number);
        }
        if of_place.is_empty() {
            self.0.remove(&place);
        }
    }

    /// The selectors that may select pods with these labels in a namespace, each once.
    pub fn candidates(&self, index: &Index, namespace: &Arc<str>, labels: &Labels) -> Vec<u32> {
        let known = index.namespace(namespace);
        let labelled = known.into_iter().flat_map(|namespace| &namespace.labels);
        let labelled = labelled
            .map(|(key, value)| Place::Labelled(key.as_str().into(), value.as_str().into()));
        let places = [Place::Any, Place::Namespace(Arc::clone(namespace))];
        let mut found = Vec::new();
        for of_place in places.into_iter().chain(labelled).filter_map(|place| self.0.get(&place)) {
            found.extend(of_place.of(&None));
            for label in labels.0.iter() {
                found.extend(of_place.of(&Some(Arc::clone(label))));
            }
        }
        found
    }
}

fn place(selector: &Term) -> Place {
    match selector {
        Term::Pods { scope: Scope::Namespace(own), .. } => Place::Namespace(Arc::clone(own)),
        Term::Pods { scope: Scope::Selected(namespaces), .. } => match required_label(namespaces) {
            Some((key, [value])) => Place::Labelled(Arc::clone(key), Arc::clone(value)),
            _ => Place::Any,
        },
        Term::Unknown | Term::Block(_) | Term::Nodes(_) => Place::Any,
    }
}

/// One of these labels is required of a pod.
fn labels(selector: &Term) -> Vec<Option<Arc<Label>>> {
    if selector.is_of_addresses() {
        return Vec::new();
    }
    match selector.required_label() {
        None => vec![None],
        Some((key, values)) => {
            let label = |value| Label { key: Arc::clone(key), value: Arc::clone(value) };
            values.iter().map(|value| Some(label(value).into())).collect()
        }
    }
}
