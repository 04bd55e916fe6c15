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

const fn once(from: &'static str, to: &'static str) -> Replacement {
    Replacement { from, count: 1, to }
}

const REPLACEMENTS: [Replacement; 9] = [
    Replacement {
        from: "        image: localhost/sluice:dev\n",
        count: 2,
        to: "        image: {{ .Values.image }}\n",
    },
    once(
        "        kubectl.kubernetes.io/default-container: agent\n",
        "        kubectl.kubernetes.io/default-container: agent
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
",
    ),
    once(
        "        app.kubernetes.io/name: sluice\n    spec:\n",
        "        app.kubernetes.io/name: sluice
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- with .Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
",
    ),
    once(
        "        - --kubelet-conf=/host/kubelet.conf\n",
        "        - --kubelet-conf=/host/kubelet.conf
        {{- range .Values.nodePortAddresses }}
        - --nodeport-addresses={{ . }}
        {{- end }}
        {{- if .Values.exposeMetrics }}
        - --metrics-bind=0.0.0.0:10249
        {{- end }}
        {{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
",
    ),
    once(
        "          name: health\n          protocol: TCP\n",
        "          name: health
          protocol: TCP
        {{- if .Values.exposeMetrics }}
        - containerPort: 10249
          hostPort: 10249
          name: metrics
          protocol: TCP
        {{- end }}
",
    ),
    once(
        "          requests:\n            cpu: 50m\n            memory: 128Mi\n",
        "          {{- toYaml .Values.resources | nindent 10 }}\n",
    ),
    once(
        "      nodeSelector:
        kubernetes.io/os: linux
      priorityClassName: system-node-critical
",
        "      nodeSelector:
        {{- toYaml .Values.nodeSelector | nindent 8 }}
      priorityClassName: {{ .Values.priorityClassName }}
",
    ),
    once(
        "      tolerations:\n      - operator: Exists\n",
        "      tolerations:\n        {{- toYaml .Values.tolerations | nindent 8 }}\n",
    ),
    once(
        "  updateStrategy:
    rollingUpdate:
      maxUnavailable: 1
    type: RollingUpdate
",
        "  updateStrategy:\n    {{- toYaml .Values.updateStrategy | nindent 4 }}\n",
    ),
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

    /// Every text that is replaced, as often as it has to occur.
    fn manifest() -> String {
        let texts = REPLACEMENTS.iter().flat_map(|r| vec![r.from; r.count]);
        std::iter::once("# comment\n").chain(texts).collect()
    }

    #[test]
    fn template_that_differs_is_found_and_a_generated_one_is_not() {
        let manifest = manifest();
        let tree = Tree::of(&[(SOURCE, &manifest), (TEMPLATE, "old")]);
        assert_eq!(template(&tree).expect("checked").len(), 1);
        let text = generate(&tree).expect("generated");
        assert!(
            text.contains("image: {{ .Values.image }}\n") && !text.contains("localhost"),
            "{text}"
        );
        let tree = Tree::of(&[(SOURCE, &manifest), (TEMPLATE, &text)]);
        assert_eq!(template(&tree).expect("checked"), Vec::new());
    }

    #[test]
    fn manifest_without_a_replaced_text_is_an_error() {
        let manifest = manifest().replace("128Mi", "64Mi");
        let error = generate(&Tree::of(&[(SOURCE, &manifest)])).expect_err("refused");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
