//! The agent of a node, with a folder of manifests as its source unless its flags name an API server.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{BIN_DIR, CONF_DIR};
use crate::process::{Process, command_deadline, run};
use crate::wait::{deadline, scaled};
use crate::{Namespaces, Node, Version, eventually};

/// Address of the agent's health server.
const HEALTH: &str = "127.0.0.1:10256";
/// Address of the agent's metrics.
const METRICS: &str = "127.0.0.1:10249";

/// Grace period of former pins in these tests, in seconds; an upgrade waits for it.
const STALE_PIN_GRACE_SECONDS: &str = "1";

/// A running agent; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    namespaces: Namespaces,
    log: std::path::PathBuf,
    /// Length of the log when it started.
    log_start: usize,
}

impl Agent {
    fn command(node: &Node, version: Version, flags: &[&str]) -> std::process::Command {
        let mut command = node.namespaces.command(version.agent());
        node.cgroup.adopt(&mut command, "");
        command
            .arg("agent")
            .args(["--node-name", &node.name])
            .args(["--cni-conf-dir", CONF_DIR, "--cni-bin-dir", BIN_DIR])
            .arg("--cni-binary")
            .arg(version.cni())
            .arg("--cgroup-root")
            .arg(node.cgroup_root())
            .args(["--stale-pin-grace-period", STALE_PIN_GRACE_SECONDS])
            .args(flags)
            .env("NO_COLOR", "1");
        let names_server =
            |flag: &&str| flag.starts_with("--api-server") || *flag == "--kubeconfig";
        if !flags.iter().any(names_server) {
            command.arg("--source").arg(&node.manifests);
        }
        command
    }

    pub(crate) fn start(node: &Node, version: Version, flags: &[&str]) -> Agent {
        let log = File::options().create(true).append(true).open(&node.log).unwrap();
        let log_start = log.metadata().unwrap().len() as usize;
        let child = Agent::command(node, version, flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", version.agent().display()));
        Agent {
            process: Process::from_child(child, "agent"),
            namespaces: node.namespaces.clone(),
            log: node.log.clone(),
            log_start,
        }
    }

    /// Runs an agent that is expected to exit with a failure; returns its standard error.
    #[track_caller]
    pub(crate) fn fail(node: &Node, flags: &[&str]) -> String {
        let output = run(&mut Agent::command(node, Version::This, flags), command_deadline())
            .unwrap_or_else(|e| panic!("agent {flags:?}: {e}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "agent {flags:?} succeeded: {text}");
        text
    }

    /// Waits until /readyz responds with 200.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        eventually("the agent is ready", || {
            if !self.process.is_running() {
                panic!("the agent exited:\n{}", self.log());
            }
            match self.get("/readyz") {
                Ok(response) if response.starts_with("HTTP/1.1 200") => Ok(()),
                Ok(response) => Err(response),
                Err(e) => Err(e.to_string()),
            }
        });
    }

    /// Requests a path of the agent's health server; returns the whole response.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        self.request(HEALTH, path)
    }

    /// The agent's metrics.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.request(METRICS, "/metrics").unwrap_or_else(|e| panic!("metrics: {e}"))
    }

    fn request(&self, server: &str, path: &str) -> std::io::Result<String> {
        self.namespaces.run(|| {
            let address: SocketAddr = server.parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response)
        })
    }

    /// Waits until the log contains these words.
    #[track_caller]
    pub fn wait_log(&self, words: &str) {
        eventually(&format!("{words:?} in the log"), || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }

    /// Sends SIGKILL as soon as this agent, and not one before it, has logged one of these: without a
    /// pause between looks, so that it goes on for less than a millisecond.
    #[track_caller]
    pub fn kill_at(self, words: &[&str]) {
        self.wait_line(words);
        self.kill();
    }

    /// Sends SIGTERM as soon as this agent has logged one of these, as [`Agent::kill_at`] does; it must exit
    /// with success within this time. Returns its log.
    #[track_caller]
    pub fn terminate_at(mut self, words: &[&str], within: Duration) -> String {
        self.wait_line(words);
        let (status, took) = self.process.terminate();
        let log = self.log_of_this();
        assert!(status.success() && took < scaled(within), "{status} after {took:?}: {log}");
        log
    }

    fn wait_line(&self, words: &[&str]) {
        let start = Instant::now();
        loop {
            let log = self.log_of_this();
            if words.iter().any(|words| log.contains(words)) {
                return;
            }
            assert!(start.elapsed() < deadline(), "none of {words:?} in the log: {log}");
            thread::yield_now();
        }
    }

    /// Waits until the process has exited.
    #[track_caller]
    pub fn wait_exit(&mut self) {
        eventually("the agent exits", || {
            if self.process.is_running() { Err(self.log()) } else { Ok(()) }
        });
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// The log of this agent so far.
    pub fn log_of_this(&self) -> String {
        self.log().split_off(self.log_start)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The log so far, of earlier agents of the node too.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
