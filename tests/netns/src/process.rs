//! Programs that run on nodes and in pods, ended when the test lets go of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

/// A running program with its output at hand.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it; its standard error goes to the test's.
    pub fn start(command: &mut Command) -> Process {
        let name = format!("{:?}", command.get_program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let output = child.stdout.take().map(BufReader::new);
        Process { child, output }
    }

    /// Takes over a program that was started already.
    pub(crate) fn from_child(child: Child) -> Process {
        Process { child, output: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program ended: {:?}", self.child.wait());
        line.trim_end().to_owned()
    }

    /// Sends it a line.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    /// Closes its input, and reads its next line as JSON.
    #[track_caller]
    pub fn finish<T: DeserializeOwned>(mut self) -> T {
        drop(self.child.stdin.take());
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// For a program started by [`crate::peer::Place::hold`]: lets it go on until this server has
    /// answered it, or the time is over, and finishes it.
    #[track_caller]
    pub fn finish_after<T: DeserializeOwned>(mut self, server: &str) -> T {
        self.tell(server);
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as kill -9 does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that is ready to be asked.
#[derive(Debug)]
pub struct Server(#[expect(dead_code, reason = "held so that it runs")] pub(crate) Process);
