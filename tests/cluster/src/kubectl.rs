//! kubectl as a person runs it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `kubectl <words>` with `input` on its standard input.
///
/// # Errors
/// What kubectl wrote to stderr, when it does not end well.
pub fn try_kubectl(words: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("kubectl")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("kubectl does not start: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| e.to_string())?;
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "kubectl {}: {} {}",
            words.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        ))
    }
}

/// Runs `kubectl <words>` and ends the test where that fails.
pub fn kubectl(words: &[&str]) -> String {
    try_kubectl(words, "").unwrap_or_else(|e| panic!("{e}"))
}

/// `kubectl <words> -o json`, parsed.
pub fn kubectl_json(words: &[&str]) -> Value {
    let text = kubectl(&[words, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("kubectl {words:?}: {e}"))
}
