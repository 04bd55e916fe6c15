//! Execution of one case.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::template::Template;
use super::{Apply, Case, Command, Example, Kubectl, Ready, Step};
use crate::process::{self, Finished};
use crate::wait::within;
use crate::{Namespace, capture, examples};

/// Longest time of a command on a node.
const ON_NODE: Duration = Duration::from_secs(60);

/// Runs the case in `cases/<name>`.
///
/// # Panics
/// When an expectation does not hold: this is a test.
pub fn run(name: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases").join(name);
    let text = fs::read_to_string(folder.join("steps.yaml")).unwrap();
    let case: Case = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(!case.steps.is_empty(), "{name} has no steps");
    let namespace = Namespace::new(name);
    let template = Template::new(&namespace);
    let _finally = Finally { steps: &case.finally, namespace: &namespace, template: &template };
    apply(&folder.join("manifest.yaml"), &namespace, &template);
    for (number, step) in case.steps.iter().enumerate() {
        println!("{name}, step {}", number + 1);
        match step {
            Step::Run(command) => expect(command, &namespace, &template),
            Step::Kubectl(Kubectl { kubectl, within: seconds }) => {
                let line = template.fill(kubectl);
                let words: Vec<_> = line.split_whitespace().collect();
                let attempt = || namespace.try_kubectl(&words).map(|_| ());
                within(Duration::from_secs(*seconds), attempt)
                    .unwrap_or_else(|e| panic!("step {}: {e}", number + 1));
            }
            Step::Apply(Apply { apply: file }) => apply(&folder.join(file), &namespace, &template),
            Step::Example(Example { example }) => namespace.apply(&examples::manifest(example)),
            Step::Ready(Ready { ready }) => {
                namespace.ready(&ready.app, ready.count);
            }
        }
    }
}

/// Runs steps when it is dropped.
struct Finally<'a> {
    steps: &'a [Step],
    namespace: &'a Namespace,
    template: &'a Template<'a>,
}

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        for step in self.steps {
            let result = match step {
                Step::Kubectl(Kubectl { kubectl, .. }) => {
                    let line = self.template.fill(kubectl);
                    let words: Vec<_> = line.split_whitespace().collect();
                    self.namespace.try_kubectl(&words)
                }
                Step::Run(command) => {
                    let (on, line) =
                        (self.template.fill(&command.on), self.template.fill(&command.run));
                    execute(&on, &line, self.namespace).map(|finished| finished.stdout)
                }
                other => Err(format!("{other:?} is not for `finally`")),
            };
            if let Err(e) = result {
                eprintln!("finally: {e}");
            }
        }
    }
}

/// Applies a manifest and waits for the pods that it creates.
fn apply(path: &Path, namespace: &Namespace, template: &Template<'_>) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = template.fill(&text);
    namespace.apply(&text);
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object = Value::deserialize(document).unwrap();
        match object["kind"].as_str() {
            Some("Pod") => {
                let name = object["metadata"]["name"].as_str().unwrap();
                let pod = format!("pod/{name}");
                namespace.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=120s"]);
            }
            Some("Deployment") => {
                let app = object["metadata"]["name"].as_str().unwrap();
                let count = object["spec"]["replicas"].as_u64().unwrap_or(1);
                namespace.ready(app, usize::try_from(count).unwrap());
            }
            _ => {}
        }
    }
}

fn expect(command: &Command, namespace: &Namespace, template: &Template<'_>) {
    let line = template.fill(&command.run);
    let on = template.fill(&command.on);
    let mut expect = command.expect.clone();
    for text in [&mut expect.stdout, &mut expect.contains, &mut expect.lacks, &mut expect.last] {
        *text = text.take().map(|t| template.fill(&t));
    }
    for word in expect.words.iter_mut().flatten() {
        *word = template.fill(word);
    }
    let attempt = || execute(&on, &line, namespace).and_then(|finished| expect.check(&finished));
    let result = match command.within {
        0 => attempt(),
        seconds => within(Duration::from_secs(seconds), attempt),
    };
    if let Err(e) = result {
        capture::attempt_again(attempt);
        panic!("on {on}: {line}: {e}");
    }
}

fn execute(on: &str, line: &str, namespace: &Namespace) -> Result<Finished, String> {
    match on.strip_prefix("node/") {
        None => namespace.exec(on, line),
        Some(node) => {
            let mut docker = std::process::Command::new("docker");
            process::run(docker.args(["exec", node, "sh", "-c", line]), "", ON_NODE)
        }
    }
}
