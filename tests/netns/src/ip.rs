//! iproute2 inside a namespace: creates links and reads the kernel's state.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::Namespaces;
use crate::process::{command_deadline, run};

fn output(namespaces: &Namespaces, arguments: &str) -> Output {
    run(namespaces.command("ip").args(arguments.split_whitespace()), command_deadline())
        .unwrap_or_else(|e| panic!("ip {arguments}: {e} (package iproute2)"))
}

/// `ip <arguments>`; panics if it fails.
#[track_caller]
pub fn ip(namespaces: &Namespaces, arguments: &str) -> String {
    let output = output(namespaces, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// `ip -j -d <arguments>` as JSON.
#[track_caller]
pub fn ip_json(namespaces: &Namespaces, arguments: &str) -> Vec<Value> {
    let text = ip(namespaces, &format!("-j -d {arguments}"));
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -j {arguments}: {e}: {text}"))
}

/// Runs a program with these arguments inside a namespace; panics if it fails.
#[track_caller]
pub fn command(namespaces: &Namespaces, program: &str, arguments: &[&str]) -> String {
    command_within(command_deadline(), namespaces, program, arguments)
}

/// [`command`] with another deadline.
#[track_caller]
pub fn command_within(
    deadline: Duration,
    namespaces: &Namespaces,
    program: &str,
    arguments: &[&str],
) -> String {
    output_within(deadline, namespaces.command(program).args(arguments))
}

/// Standard output of a command; panics if it fails or does not exit before the deadline.
#[track_caller]
pub fn output_within(deadline: Duration, command: &mut Command) -> String {
    let name = format!("{command:?}");
    let output = run(command, deadline).unwrap_or_else(|e| panic!("{name}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
