//! `sluice policy check`: problems of policies in manifests, without a cluster.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use serde_yaml::{Mapping, Value};
use sluice_core::model::{Kind, Namespace, Object};
use sluice_core::policy::{FindingReason, check_all};

use super::super::output::{Output, TableRow, print_json, print_rows};
use crate::source::convert::{self, NAMESPACE_NAME_LABEL};
use crate::source::folder;

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

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ProblemRow {
    /// `namespace/name` of the policy, the name of a ClusterNetworkPolicy, or the file that cannot be read.
    object: String,
    /// Reason of the Event.
    reason: String,
    /// Whether the policy may be as intended.
    warning: bool,
    /// The problem.
    problem: String,
}

impl TableRow for ProblemRow {
    const HEADER: &'static [&'static str] = &["SEVERITY", "OBJECT", "REASON", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        let severity = if self.warning { "warning" } else { "error" };
        vec![severity.into(), self.object.clone(), self.reason.clone(), self.problem.clone()]
    }
}

/// Checks files. The exit code is 1 if a problem is not only a warning.
///
/// # Errors
/// A file cannot be read, or standard output cannot be written.
pub fn run(files: &[PathBuf], output: Output) -> anyhow::Result<ExitCode> {
    let mut texts = Vec::new();
    for file in files {
        let text = read(file).with_context(|| format!("read {}", file.display()))?;
        texts.push((file.display().to_string(), text));
    }
    let problems = check(&texts);
    match output {
        Output::Json => print_json(&problems)?,
        Output::Text if problems.is_empty() => eprintln!("No problem found."),
        Output::Text => print_rows(output, "problem", &problems)?,
    }
    let failed = problems.iter().any(|problem| !problem.warning);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text)?;
        return Ok(text);
    }
    std::fs::read(file)
}

/// The problems of all files together.
fn check(files: &[(String, Vec<u8>)]) -> Vec<ProblemRow> {
    let mut problems = Vec::new();
    let mut objects = Vec::new();
    for (file, text) in files {
        match folder::parse_with(text, pod_of_workload) {
            Ok(found) => objects.extend(found),
            Err(e) => problems.push(ProblemRow {
                object: file.clone(),
                reason: "Invalid".to_owned(),
                warning: false,
                problem: sluice_bpf::error_chain(&e),
            }),
        }
    }
    add_namespaces(&mut objects);
    let has_pods = objects.iter().any(|object| object.kind() == Kind::Pod);
    // Without pods in the files, it is not known what selectors and port names match.
    let is_known = |reason: FindingReason| {
        has_pods || !matches!(reason, FindingReason::NoPod | FindingReason::UndefinedPort)
    };
    let found = check_all(&objects).into_iter().filter(|finding| is_known(finding.reason));
    problems.extend(found.map(|finding| ProblemRow {
        object: finding.object.to_string(),
        reason: finding.reason.name().to_owned(),
        warning: finding.reason.is_warning(),
        problem: finding.text,
    }));
    problems
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

    const POLICY: &str = "
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: postgres}, {port: 90, endPort: 80}]
";
    const DEPLOYMENTS: &str = "
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, ports: [{name: POSTGRES, containerPort: 5432}]}]}
";

    fn problems(texts: &[&str]) -> Vec<String> {
        let text = |text: &&str| ("a.yaml".to_owned(), text.as_bytes().to_vec());
        let files: Vec<_> = texts.iter().map(text).collect();
        let cell = |row: ProblemRow| {
            let severity = if row.warning { "warning" } else { "error" };
            format!("{severity} {} {}", row.object, row.reason)
        };
        check(&files).into_iter().map(cell).collect()
    }

    #[test]
    fn names_and_selectors_are_checked_against_the_pods_of_the_files_only() {
        assert_eq!(problems(&[POLICY]), ["error shop/db EmptyPortRange"]);
        assert_eq!(
            problems(&[POLICY, DEPLOYMENTS]),
            [
                "error shop/db UndefinedPort",
                "error shop/db EmptyPortRange",
                "warning shop/db SelectorMatchesNothing",
            ]
        );
        let defined = DEPLOYMENTS.replace("POSTGRES", "postgres");
        let web = "{kind: Pod, metadata: {name: w, namespace: shop, labels: {app: web}}}";
        assert_eq!(problems(&[POLICY, &defined, web]), ["error shop/db EmptyPortRange"]);
    }

    #[test]
    fn cluster_network_policies_are_checked_with_their_actions() {
        let policy = |peer: &str| {
            format!(
                "{{kind: ClusterNetworkPolicy, metadata: {{name: no-metadata}}, spec: {{tier: Admin,
                 priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Deny, to: [{peer}]}}]}}}}"
            )
        };
        assert_eq!(problems(&[&policy("{networks: [169.254.169.254/32]}")]), Vec::<String>::new());
        let found = ["error no-metadata InvalidPart"];
        for peer in ["{domainNames: [example.org]}", "{future: 1}", "{}", "{networks: [x]}"] {
            assert_eq!(problems(&[&policy(peer)]), found, "{peer}");
        }
    }

    #[test]
    fn every_workload_has_pods() {
        for (kind, path) in TEMPLATES {
            let mut yaml = "{metadata: {labels: {app: db}}, spec: {}}".to_owned();
            for field in path.iter().rev() {
                yaml = format!("{{{field}: {yaml}}}");
            }
            let yaml = format!("{{kind: {kind}, metadata: {{name: x}}, {}", &yaml[1..]);
            let list = format!("kind: List\nitems: [{yaml}]");
            let pods = folder::parse_with(list.as_bytes(), pod_of_workload).unwrap();
            let [Object::Pod(pod)] = &pods[..] else { panic!("{kind}: {pods:?}") };
            assert_eq!(pod.labels.get("app"), Some("db"));
            assert_eq!(pod.name.to_string(), "default/x");
        }
    }

    #[test]
    fn file_that_is_not_valid_is_named_with_its_document() {
        let texts = [("a.yaml".to_owned(), b"kind: [".to_vec())];
        let found = check(&texts);
        assert_eq!((found.len(), &*found[0].object), (1, "a.yaml"));
        assert!(found[0].problem.starts_with("document 1"), "{found:?}");
        let invalid = POLICY.replace("{matchLabels: {app: web}}", "3");
        assert_eq!(problems(&[&invalid]), ["error shop/db InvalidPart"]);
    }
}
