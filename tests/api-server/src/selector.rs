//! Label and field selectors: `key`, `!key`, `key=value` and `key!=value`, separated by commas.

use std::collections::BTreeMap;

use serde_json::Value;

/// A parsed selector; the empty one matches everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// `None`: any value.
    value: Option<String>,
    negated: bool,
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Selector {
        Selector(text.split(',').filter(|part| !part.is_empty()).map(Requirement::parse).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str)))
    }

    /// Keys are paths of fields, such as `spec.nodeName`; a missing field is empty.
    pub(crate) fn matches_fields(&self, object: &Value) -> bool {
        self.0.iter().all(|r| {
            let pointer = format!("/{}", r.key.replace('.', "/"));
            r.holds(Some(object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default()))
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Requirement {
        let (key, value, negated) = match text.split_once('=') {
            Some((key, value)) => {
                let value = value.strip_prefix('=').unwrap_or(value);
                (key.strip_suffix('!').unwrap_or(key), Some(value), key.ends_with('!'))
            }
            None => (text.strip_prefix('!').unwrap_or(text), None, text.starts_with('!')),
        };
        Requirement { key: key.to_owned(), value: value.map(str::to_owned), negated }
    }

    fn holds(&self, actual: Option<&str>) -> bool {
        let equal = match &self.value {
            Some(value) => actual == Some(value),
            None => actual.is_some(),
        };
        equal != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_all_needed() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("!b,a=1", true),
            ("a==2", false),
            ("a!=2", true),
            ("b!=2", true),
            ("b", false),
        ] {
            assert_eq!(Selector::parse(text).matches_labels(&labels), expected, "{text}");
        }
        let object = serde_json::json!({"spec": {"nodeName": "n1"}});
        assert!(Selector::parse("spec.nodeName=n1").matches_fields(&object));
        assert!(!Selector::parse("spec.nodeName=n2").matches_fields(&object));
    }
}
