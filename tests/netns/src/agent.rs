//! The real agent on a node, fed by a folder of manifests.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use crate::node::{BIN_DIR, CONF_DIR};
use crate::process::Process;
use crate::{Namespaces, Node, agent_binary, cni_binary, eventually};

/// Where the agent tells whether it is ready.
const HEALTH: &str = "127.0.0.1:10256";

/// A running agent; killed when dropped, and its log shown if the test failed.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    spaces: Namespaces,
    log: std::path::PathBuf,
}

impl Agent {
    pub(crate) fn start(node: &Node, flags: &[&str]) -> Agent {
        let log = File::options().create(true).append(true).open(&node.log).unwrap();
        let mut command = node.spaces.command(agent_binary());
        node.cgroup.adopt(&mut command, "");
        let child = command
            .arg("agent")
            .arg("--source")
            .arg(&node.manifests)
            .args(["--node-name", &node.name])
            .args(["--cni-conf-dir", CONF_DIR, "--cni-bin-dir", BIN_DIR])
            .arg("--cni-binary")
            .arg(cni_binary())
            .arg("--cgroup-root")
            .arg(node.cgroup_root())
            .args(flags)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", agent_binary().display()));
        Agent {
            process: Process::from_child(child),
            spaces: node.spaces.clone(),
            log: node.log.clone(),
        }
    }

    /// Waits until /readyz answers 200.
    #[track_caller]
    pub fn ready(&mut self) {
        eventually("the agent is ready", || {
            if !self.process.runs() {
                // Waiting longer would not help.
                panic!("the agent ended:\n{}", self.log());
            }
            match self.get("/readyz") {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
                Ok(answer) => Err(answer),
                Err(e) => Err(e.to_string()),
            }
        });
    }

    /// Asks the agent's health server; the whole answer.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        self.spaces.run(|| {
            let address: SocketAddr = HEALTH.parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Waits until its log has these words.
    #[track_caller]
    pub fn log_says(&self, words: &str) {
        eventually(&format!("the log says {words:?}"), || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}
