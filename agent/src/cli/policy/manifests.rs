//! Objects of manifests, as far as policies depend on them.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::{Mapping, Value};
use sluice_core::ObjectName;
use sluice_core::model::{Kind, NAMESPACE_NAME_LABEL, Namespace, Object};

use crate::source::{convert, folder};

/// Where the template of the pods of a workload is.
const TEMPLATES: [(&str, &[&str]); 7] = [
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// What files have.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Policies, pods, also those of workloads, and namespaces.
    pub objects: Vec<Object>,
    /// Documents that cannot be checked: the file or the policy, and why.
    pub problems: Vec<(String, String)>,
}

impl Manifests {
    /// Reads the texts of files, given with their names.
    pub fn read(files: &[(String, Vec<u8>)]) -> Manifests {
        let mut found = Manifests::default();
        for (file, text) in files {
            let read = folder::parse_with(text, &mut |kind, value| {
                match is_checked(kind, &value) {
                    Ok(()) => found.objects.extend(object(kind, value)?),
                    Err(problem) => found.problems.push((file.clone(), problem)),
                }
                Ok(())
            });
            if let Err(e) = read {
                found.problems.push((file.clone(), sluice_bpf::error_chain(&e)));
            }
        }
        let mut policies: BTreeMap<(Kind, ObjectName), usize> = BTreeMap::new();
        for object in found.objects.iter().filter(|object| is_policy(object.kind())) {
            *policies.entry((object.kind(), object.name())).or_default() += 1;
        }
        for ((_, name), _) in policies.iter().filter(|(_, count)| **count > 1) {
            let problem = "is defined more than once; only the last definition is checked";
            found.problems.push((name.to_string(), problem.to_owned()));
        }
        if policies.is_empty() && found.problems.is_empty() {
            let files: Vec<&str> = files.iter().map(|(file, _)| &**file).collect();
            let problem = "no NetworkPolicy or ClusterNetworkPolicy".to_owned();
            found.problems.push((files.join(", "), problem));
        }
        add_namespaces(&mut found.objects);
        found
    }

    /// Namespaces with NetworkPolicies and without pods.
    pub fn namespaces_without_pods(&self) -> Vec<String> {
        let of_kind = |kind| self.objects.iter().filter(move |object| object.kind() == kind);
        let namespaces = |kind| of_kind(kind).map(|object| object.name().namespace);
        let with_pods: BTreeSet<_> = namespaces(Kind::Pod).collect();
        let without: BTreeSet<_> =
            namespaces(Kind::NetworkPolicy).filter(|name| !with_pods.contains(name)).collect();
        without.into_iter().map(|name| name.to_string()).collect()
    }
}

fn is_policy(kind: Kind) -> bool {
    matches!(kind, Kind::NetworkPolicy | Kind::ClusterNetworkPolicy)
}

/// Whether a document is not taken for a policy, or is one that Sluice reads. Items of a typed list have no
/// `apiVersion`.
fn is_checked(kind: &str, value: &Value) -> Result<(), String> {
    let expected = match convert::kind_from_name(kind) {
        Some(kind) if is_policy(kind) => convert::api_version(kind),
        None if kind.to_lowercase().contains("networkpolic") => {
            return Err(format!(
                "kind {kind} is not checked: neither NetworkPolicy nor ClusterNetworkPolicy"
            ));
        }
        _ => None,
    };
    let (Some(expected), Some(version)) = (expected, value.get("apiVersion")) else {
        return Ok(());
    };
    match version.as_str() {
        Some(version) if version == expected => Ok(()),
        version => {
            let version = version.unwrap_or("that is not a text");
            Err(format!("{kind} with apiVersion {version} is not checked: expected {expected}"))
        }
    }
}

/// An object of a kind that Sluice reads, or the pod of a workload.
fn object(kind: &str, value: Value) -> Result<Option<Object>, convert::ConvertError> {
    match convert::kind_from_name(kind) {
        Some(kind) => convert::object(kind, value).map(Some),
        None => Ok(pod_of_workload(kind, value)),
    }
}

/// A Pod of a workload, with the name of the workload.
fn pod_of_workload(kind: &str, value: Value) -> Option<Object> {
    let (_, path) = TEMPLATES.iter().find(|(name, _)| *name == kind)?;
    let template = path.iter().try_fold(&value, |value, field| value.get(field))?;
    let mut metadata = Mapping::new();
    let fields = [
        ("name", value.pointer(["metadata", "name"])),
        ("namespace", value.pointer(["metadata", "namespace"])),
        ("labels", template.pointer(["metadata", "labels"])),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut pod = Mapping::new();
    pod.insert("metadata".into(), metadata.into());
    pod.insert("spec".into(), template.get("spec").cloned().unwrap_or_default());
    convert::object(Kind::Pod, Value::from(pod)).ok()
}

/// A field below others.
trait Pointer {
    fn pointer<const N: usize>(&self, path: [&str; N]) -> Option<&Value>;
}

impl Pointer for Value {
    fn pointer<const N: usize>(&self, path: [&str; N]) -> Option<&Value> {
        path.into_iter().try_fold(self, |value, field| value.get(field))
    }
}

/// Adds the namespaces that the objects are in and that the files do not have.
fn add_namespaces(objects: &mut Vec<Object>) {
    let names = objects.iter().filter(|object| object.kind() != Kind::Namespace);
    let mut missing: BTreeSet<String> =
        names.map(|object| object.name().namespace.to_string()).collect();
    missing.remove("");
    for object in objects.iter() {
        if let Object::Namespace(namespace) = object {
            missing.remove(&namespace.name);
        }
    }
    objects.extend(missing.into_iter().map(|name| {
        let labels = [(NAMESPACE_NAME_LABEL.to_owned(), name.clone())].into();
        Object::Namespace(Namespace { name, labels })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_pods() {
        for (kind, path) in TEMPLATES {
            let mut yaml = "{metadata: {labels: {app: db}}, spec: {}}".to_owned();
            for field in path.iter().rev() {
                yaml = format!("{{{field}: {yaml}}}");
            }
            let yaml = format!("{{kind: {kind}, metadata: {{name: x}}, {}", &yaml[1..]);
            let list = format!("kind: List\nitems: [{yaml}]");
            let found = Manifests::read(&[("a.yaml".to_owned(), list.into_bytes())]);
            let Some(Object::Pod(pod)) = found.objects.first() else { panic!("{kind}: {found:?}") };
            assert_eq!(pod.labels.get("app"), Some("db"));
            assert_eq!(pod.name.to_string(), "default/x");
        }
    }

    #[test]
    fn document_that_is_not_a_policy_of_this_api_is_a_problem() {
        const POLICY: &str =
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: p}\n";
        let problems = |text: &str| {
            let found = Manifests::read(&[("a.yaml".to_owned(), text.as_bytes().to_vec())]);
            found.problems.into_iter().map(|(at, text)| format!("{at} {text}")).collect::<Vec<_>>()
        };
        assert_eq!(problems(POLICY), Vec::<String>::new());
        for (from, to, problem) in [
            ("NetworkPolicy", "networkpolicy", "a.yaml kind networkpolicy is not checked"),
            ("NetworkPolicy", "CiliumNetworkPolicy", "a.yaml kind CiliumNetworkPolicy is not"),
            ("NetworkPolicy", "Policy", "a.yaml no NetworkPolicy or ClusterNetworkPolicy"),
            ("networking.k8s.io/v1", "extensions/v1beta1", "a.yaml NetworkPolicy with apiVersion"),
            ("networking.k8s.io/v1", "3", "a.yaml NetworkPolicy with apiVersion that is not"),
        ] {
            let found = problems(&POLICY.replace(from, to));
            assert!(found.len() == 1 && found[0].starts_with(problem), "{to}: {found:?}");
        }
        let found = problems(&format!("{POLICY}---\n{POLICY}"));
        assert_eq!(
            found,
            ["default/p is defined more than once; only the last definition is checked"]
        );
        let list = "{kind: NetworkPolicyList, items: [{metadata: {name: p}}]}";
        assert_eq!(problems(list), Vec::<String>::new());
    }
}
