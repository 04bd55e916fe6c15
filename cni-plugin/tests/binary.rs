//! The binary as a container runtime starts it: variables, stdin, stdout, exit code. Only calls that
//! do not reach the kernel's network.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A call takes milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Exit code and stdout of one call.
fn call(variables: &[(&str, &str)], stdin: &[u8]) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let stdin = stdin.to_owned();
    // A binary that stops reading closes the pipe.
    thread::spawn(move || drop(input.write_all(&stdin)));
    let stdout = thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let status = wait(&mut child);
    (status.code(), stdout.join().unwrap().unwrap())
}

/// Waits for the exit of the binary, which is killed at the deadline.
fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() >= DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("sluice-cni: killed after {DEADLINE:?}");
        }
        thread::sleep(POLL);
    }
}

fn error(variables: &[(&str, &str)], stdin: &[u8]) -> (u64, String, Value) {
    let (exit, stdout) = call(variables, stdin);
    assert_eq!(exit, Some(1), "{stdout}");
    let json: Value = serde_json::from_str(&stdout).expect("one JSON object");
    let message = json["msg"].as_str().unwrap().to_owned();
    (json["code"].as_u64().unwrap(), message, json["cniVersion"].clone())
}

const VERSION: [(&str, &str); 1] = [("CNI_COMMAND", "VERSION")];

#[test]
fn version_is_answered_on_stdout() {
    let (exit, stdout) = call(&VERSION, br#"{"cniVersion": "1.0.0"}"#);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((exit, &json["cniVersion"]), (Some(0), &json!("1.0.0")));
    assert_eq!(json["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn binary_prints_what_it_was_built_from() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-cni")).arg("--version").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let revision = option_env!("SLUICE_REVISION").unwrap_or("unknown");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("sluice-cni {version} (revision {revision}, ABI ");
    assert!(output.status.success() && printed.starts_with(&expected), "{printed}");
}

#[test]
fn errors_have_the_version_of_the_configuration() {
    let (code, message, version) = error(&[], br#"{"cniVersion": "0.4.0"}"#);
    assert_eq!((code, version), (4, json!("0.4.0")));
    assert!(message.contains("CNI_COMMAND"), "{message}");
    let (code, _, version) = error(&[("CNI_COMMAND", "STATUS")], b"{");
    assert_eq!((code, version), (6, json!("1.1.0")));
}

#[test]
fn stdin_must_be_text_and_bounded() {
    let (code, message, _) = error(&VERSION, &[0xff, 0xfe]);
    assert_eq!(code, 6, "{message}");
    // A configuration cut at the limit is not valid JSON.
    let long = format!(r#"{{"name": "{}"}}"#, "a".repeat(5 << 20));
    let (code, _, _) = error(&[("CNI_COMMAND", "STATUS")], long.as_bytes());
    assert_eq!(code, 6);
}
