//! `sluice policy check`: problems of policies in manifests, without a cluster.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use sluice_core::policy::{KnownPods, check_all};

use super::super::output::{Output, TableRow, print_json, print_rows};
use super::manifests::Manifests;

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
    let (problems, skipped) = check(&texts);
    if let Some(skipped) = skipped {
        eprintln!("{skipped}");
    }
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

/// The problems of all files together, and what is not checked.
fn check(files: &[(String, Vec<u8>)]) -> (Vec<ProblemRow>, Option<String>) {
    let manifests = Manifests::read(files);
    let invalid = manifests.problems.iter().map(|(object, problem)| ProblemRow {
        object: object.clone(),
        reason: "Invalid".to_owned(),
        warning: false,
        problem: problem.clone(),
    });
    let found = check_all(&manifests.objects, KnownPods::OfNamespaces);
    let found = found.into_iter().map(|finding| ProblemRow {
        object: finding.object.to_string(),
        reason: finding.reason.name().to_owned(),
        warning: finding.reason.is_warning(),
        problem: finding.text,
    });
    let namespaces = manifests.namespaces_without_pods();
    let skipped = (!namespaces.is_empty()).then(|| {
        let namespaces = namespaces.join(", ");
        format!(
            "Selectors and port names were not checked in these namespaces, of which the files have no pods: \
             {namespaces}"
        )
    });
    (invalid.chain(found).collect(), skipped)
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
        check(&files).0.into_iter().map(cell).collect()
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

    /// Pods of other namespaces are not in the files.
    #[test]
    fn what_pods_of_other_namespaces_have_is_not_a_problem() {
        let out = "
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {team: lab}}, podSelector: {matchLabels: {app: x}}}]
  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: dns, protocol: UDP}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab}}}]
    ports: [{port: http}]
  - ports: [{port: http}]
  - to: [{ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: http}]
";
        assert_eq!(problems(&[out, DEPLOYMENTS]), Vec::<String>::new());
        // Those of a namespace in the files are.
        let named = out.replace("name: lab", "name: shop");
        assert_eq!(problems(&[&named, DEPLOYMENTS]), ["error shop/out UndefinedPort"]);
        let app = out.replace("{}, podSelector: {matchLabels: {k8s-app: kube-dns}}",
            "{matchLabels: {kubernetes.io/metadata.name: shop}}, podSelector: {matchLabels: {app: y}}");
        let warning = ["warning shop/out SelectorMatchesNothing"];
        assert_eq!(problems(&[&app, DEPLOYMENTS]), warning);
        let egress_only = POLICY.replace("ingress:", "policyTypes: [Egress]\n  ingress:");
        assert_eq!(problems(&[&egress_only]), ["warning shop/db RulesWithoutPolicyType"]);
    }

    #[test]
    fn checks_without_pods_are_named() {
        let skipped = |texts: &[&str]| {
            let text = |text: &&str| ("a.yaml".to_owned(), text.as_bytes().to_vec());
            check(&texts.iter().map(text).collect::<Vec<_>>()).1
        };
        let text = skipped(&[POLICY]).unwrap();
        assert!(text.ends_with("no pods: shop"), "{text}");
        assert_eq!(skipped(&[POLICY, DEPLOYMENTS]), None);
        let lab = POLICY.replace("namespace: shop", "namespace: lab");
        assert!(skipped(&[POLICY, &lab, DEPLOYMENTS]).unwrap().ends_with("no pods: lab"));
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
    fn file_that_is_not_valid_is_named_with_its_document() {
        let texts = [("a.yaml".to_owned(), b"kind: [".to_vec())];
        let (found, _) = check(&texts);
        assert_eq!((found.len(), &*found[0].object), (1, "a.yaml"));
        assert!(found[0].problem.starts_with("document 1"), "{found:?}");
        let invalid = POLICY.replace("{matchLabels: {app: web}}", "3");
        assert_eq!(problems(&[&invalid]), ["error shop/db InvalidPart"]);
    }
}
