//! One call of the CNI binary, as a container runtime makes it: configuration on standard input,
//! everything else in the environment.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Namespaces, Sandbox, cni_binary};

/// A call before it is made.
#[derive(Clone, Debug)]
pub struct Call {
    binary: PathBuf,
    config: String,
    environment: Vec<(&'static str, String)>,
}

/// What became of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to exit.
    pub took: Duration,
}

impl Call {
    /// A verb with its configuration and nothing else.
    pub fn new(verb: &str, config: &Value) -> Call {
        Call::raw(verb, &config.to_string())
    }

    /// A verb with bytes that need not be a configuration.
    pub fn raw(verb: &str, config: &str) -> Call {
        let call = Call { binary: cni_binary(), config: config.to_owned(), environment: vec![] };
        let folder = call.binary.parent().unwrap().display().to_string();
        call.set("CNI_COMMAND", verb).set("CNI_PATH", &folder)
    }

    /// A verb for a sandbox, with everything that containerd sets.
    pub fn for_sandbox(verb: &str, config: &Value, sandbox: &Sandbox) -> Call {
        let (namespace, name) = sandbox.name.split_once('/').unwrap();
        let id = &sandbox.id;
        Call::new(verb, config)
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

    /// Sets, or with an empty value removes, a variable.
    pub fn set(mut self, variable: &'static str, value: &str) -> Call {
        self.environment.retain(|(name, _)| *name != variable);
        if !value.is_empty() {
            self.environment.push((variable, value.to_owned()));
        }
        self
    }

    /// Uses another binary.
    pub fn with_binary(mut self, binary: &Path) -> Call {
        self.binary = binary.to_owned();
        self
    }

    fn command(&self, place: &Namespaces) -> Command {
        let mut command = place.command(&self.binary);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it without waiting for its end.
    pub fn spawn(&self, place: &Namespaces) -> Child {
        let mut child = self
            .command(place)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.binary.display()));
        // A binary that ends without reading its input is no fault of the caller.
        let _ = child.stdin.take().unwrap().write_all(self.config.as_bytes());
        child
    }

    /// Makes the call.
    pub fn run(&self, place: &Namespaces) -> Outcome {
        let start = Instant::now();
        let output = self.spawn(place).wait_with_output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }
}

impl Outcome {
    /// Asserts success; the result, or null where the verb has none.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        if self.stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Asserts an error of this code whose text has all these words; returns the text.
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
