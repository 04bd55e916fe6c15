//! One call of the CNI binary as a container runtime makes it: configuration on standard input,
//! everything else in the environment.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{command_deadline, finish};
use crate::{Namespaces, Sandbox, cni_binary};

/// Error codes of the CNI specification, and those of Sluice from 100.
///
/// Written out here: a test that read them from the product would not notice a change.
pub mod code {
    #![allow(missing_docs, reason = "named as in the specification")]
    pub const INCOMPATIBLE_VERSION: u64 = 1;
    pub const UNSUPPORTED_FIELD: u64 = 2;
    pub const UNKNOWN_CONTAINER: u64 = 3;
    pub const INVALID_ENVIRONMENT: u64 = 4;
    pub const IO_FAILURE: u64 = 5;
    pub const DECODING_FAILURE: u64 = 6;
    pub const INVALID_CONFIG: u64 = 7;
    pub const TRY_AGAIN_LATER: u64 = 11;
    pub const PLUGIN_NOT_AVAILABLE: u64 = 50;
    pub const INTERFACE_EXISTS: u64 = 100;
    pub const RANGE_EXHAUSTED: u64 = 101;
    pub const CHECK_FAILED: u64 = 102;
}

/// A call before it is made.
#[derive(Clone, Debug)]
pub struct CniCall {
    binary: PathBuf,
    config: String,
    environment: Vec<(&'static str, String)>,
}

/// A call whose process is running.
#[derive(Debug)]
pub struct RunningCall {
    child: Child,
    start: Instant,
}

/// Exit code and output of a call.
#[derive(Debug)]
pub struct CniOutput {
    /// Exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Time from start to exit.
    pub took: Duration,
}

impl CniCall {
    /// A verb with this configuration and nothing else.
    pub fn new(verb: &str, config: &Value) -> CniCall {
        CniCall::raw(verb, &config.to_string())
    }

    /// A verb with any bytes on standard input.
    pub fn raw(verb: &str, config: &str) -> CniCall {
        let call = CniCall { binary: cni_binary(), config: config.to_owned(), environment: vec![] };
        let folder = call.binary.parent().unwrap().display().to_string();
        call.set("CNI_COMMAND", verb).set("CNI_PATH", &folder)
    }

    /// A verb for a sandbox, with the variables that containerd sets.
    pub fn for_sandbox(verb: &str, config: &Value, sandbox: &Sandbox) -> CniCall {
        let (namespace, name) = sandbox.name.split_once('/').unwrap();
        let id = &sandbox.id;
        CniCall::new(verb, config)
            .set("CNI_CONTAINERID", id)
            .set("CNI_NETNS", &sandbox.path.display().to_string())
            .set("CNI_IFNAME", "eth0")
            .set(
                "CNI_ARGS",
                &format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                     K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=7c2e"
                ),
            )
    }

    /// Sets a variable; an empty value removes it.
    pub fn set(mut self, variable: &'static str, value: &str) -> CniCall {
        self.environment.retain(|(name, _)| *name != variable);
        if !value.is_empty() {
            self.environment.push((variable, value.to_owned()));
        }
        self
    }

    /// Calls another plugin.
    pub fn with_binary(mut self, binary: &Path) -> CniCall {
        self.binary = binary.to_owned();
        self
    }

    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    pub(crate) fn command(&self, namespaces: &Namespaces) -> Command {
        let mut command = namespaces.command(&self.binary);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    /// Starts the call.
    pub fn spawn(&self, namespaces: &Namespaces) -> RunningCall {
        let start = Instant::now();
        let mut child = self
            .command(namespaces)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.binary.display()));
        // A plugin may exit without reading its input.
        let _ = child.stdin.take().unwrap().write_all(self.config.as_bytes());
        RunningCall { child, start }
    }

    /// Makes the call.
    #[track_caller]
    pub fn run(&self, namespaces: &Namespaces) -> CniOutput {
        self.spawn(namespaces).wait()
    }
}

impl RunningCall {
    /// Waits for the exit.
    #[track_caller]
    pub fn wait(self) -> CniOutput {
        let RunningCall { child, start } = self;
        let output = finish(child, command_deadline()).unwrap_or_else(|e| panic!("CNI call: {e}"));
        CniOutput {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Sends SIGKILL; returns whether the process was still running.
    pub fn kill(mut self) -> bool {
        let running = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        running
    }
}

impl CniOutput {
    /// Asserts success; returns the result, or null if the verb has none.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        if self.stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Asserts an error with exactly this code whose text contains all these words; returns the
    /// text.
    #[track_caller]
    pub fn error(&self, code: u64, words: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout));
        assert_eq!(error["code"], code, "{error}");
        assert!(error["cniVersion"].is_string(), "{error}");
        let text = format!(
            "{}: {}",
            error["msg"].as_str().expect("msg"),
            error["details"].as_str().unwrap_or_default()
        );
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        text
    }
}
