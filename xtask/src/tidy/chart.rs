//! The template of the Helm chart, generated from the rendered manifest.
//!
//! Input: deploy/sluice.yaml, which is the output of kustomize. Output: the same text with a few
//! values replaced by expressions, deploy/helm/templates/sluice.yaml. `--update` writes it; the
//! rule compares. Nothing is maintained twice: deploy/helm contains the defaults of these values only.

use anyhow::{Context, Result, ensure};

use super::Finding;
use super::tree::Tree;

const SOURCE: &str = "deploy/sluice.yaml";
/// The generated file.
pub const TEMPLATE: &str = "deploy/helm/templates/sluice.yaml";

const HEADER: &str = "# Generated from deploy/sluice.yaml by: cargo xtask tidy --update\n";

/// A text of the manifest, how often it occurs, and what the template has in its place.
struct Replacement {
    from: &'static str,
    count: usize,
    to: &'static str,
}

const REPLACEMENTS: [Replacement; 3] = [
    Replacement {
        from: "image: localhost/sluice:dev\n",
        count: 2,
        to: "image: {{ .Values.image }}\n",
    },
    Replacement {
        from: "            memory: 128Mi\n",
        count: 1,
        to: "            memory: {{ .Values.memory }}\n",
    },
    Replacement {
        from: "        - --kubelet-conf=/host/kubelet.conf\n",
        count: 1,
        to: "        - --kubelet-conf=/host/kubelet.conf\n        {{- range .Values.nodePortAddresses }}\n\
             \x20       - --nodeport-addresses={{ . }}\n        {{- end }}\n        {{- range \
             .Values.extraArgs }}\n        - {{ . }}\n        {{- end }}\n",
    },
];

/// The template equals what is generated.
pub fn template(tree: &Tree) -> Result<Vec<Finding>> {
    let expected = generate(tree)?;
    if tree.get(TEMPLATE) == Some(expected.as_str()) {
        return Ok(Vec::new());
    }
    let message = "differs from deploy/sluice.yaml; run `cargo xtask tidy --update`";
    Ok(vec![Finding::new(TEMPLATE, 0, message)])
}

/// The text of the template.
///
/// # Errors
/// When the manifest does not exist or lacks a text that is replaced.
pub fn generate(tree: &Tree) -> Result<String> {
    let manifest = tree.get(SOURCE).with_context(|| format!("{SOURCE} does not exist"))?;
    let lines = manifest.lines().filter(|line| !line.starts_with('#'));
    let mut text: String = lines.flat_map(|line| [line, "\n"]).collect();
    ensure!(!text.contains("{{"), "{SOURCE} contains a template expression");
    for Replacement { from, count, to } in REPLACEMENTS {
        let found = text.matches(from).count();
        ensure!(found == count, "{SOURCE} contains {from:?} {found} times, not {count} times");
        text = text.replace(from, to);
    }
    Ok(format!("{HEADER}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "# comment
        - --kubelet-conf=/host/kubelet.conf
        image: localhost/sluice:dev
            memory: 128Mi
        image: localhost/sluice:dev
";

    #[test]
    fn template_that_differs_is_found_and_a_generated_one_is_not() {
        let tree = Tree::of(&[(SOURCE, MANIFEST), (TEMPLATE, "old")]);
        assert_eq!(template(&tree).expect("checked").len(), 1);
        let text = generate(&tree).expect("generated");
        assert!(
            text.contains("image: {{ .Values.image }}\n") && !text.contains("localhost"),
            "{text}"
        );
        let tree = Tree::of(&[(SOURCE, MANIFEST), (TEMPLATE, &text)]);
        assert_eq!(template(&tree).expect("checked"), Vec::new());
    }

    #[test]
    fn manifest_without_a_replaced_text_is_an_error() {
        let manifest = MANIFEST.replace("128Mi", "64Mi");
        let error = generate(&Tree::of(&[(SOURCE, &manifest)])).expect_err("refused");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
