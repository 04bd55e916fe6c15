//! Reads the case tables.
//!
//! ```text
//! client  sockets  protocol  path  target  -> server source     a response
//!                                          -> refused 500ms     a failure and its deadline
//! ```
//! A column may hold a list (`pod1,pod2`): the line is read as every combination.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use netns_tests::peer::Echo;

/// One cell.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it is written: file and line.
    source: String,
    pub client: String,
    pub socket_programs: bool,
    pub protocol: String,
    pub path: String,
    pub target: String,
    pub expected: Expected,
}

/// The expected outcome of a cell.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Name of the server, and of the client's address as the server observes it.
    Response { server: String, source: String },
    /// Kind of the failure, and its deadline.
    Failure { kind: String, within: Duration },
}

impl Expected {
    /// Deadline of the client.
    pub fn deadline(&self) -> Duration {
        match self {
            Expected::Failure { kind, within } if kind == "timeout" => *within,
            _ => super::RESPONSE,
        }
    }

    /// How long the client may wait: cells that wait begin first.
    pub fn wait(&self) -> Duration {
        match self {
            Expected::Failure { within, .. } => *within,
            Expected::Response { .. } => Duration::ZERO,
        }
    }

    /// For ICMP echo: `reply`, or the failure.
    pub fn echo(&self) -> String {
        match self {
            Expected::Response { server, .. } => server.clone(),
            Expected::Failure { kind, .. } => kind.clone(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = if self.socket_programs { "on" } else { "off" };
        write!(
            f,
            "  {}: {} {sockets} {} {} {}\n      not ",
            self.source, self.client, self.protocol, self.path, self.target
        )?;
        match &self.expected {
            Expected::Response { server, source } => write!(f, "{server} {source}"),
            Expected::Failure { kind, within } => write!(f, "{kind} {within:?}"),
        }
    }
}

/// Every cell of every table.
pub fn read_all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let line = line.split('#').next().unwrap().trim();
            if !line.is_empty() {
                read_line(line, &format!("{name}:{}", number + 1), &mut cases);
            }
        }
    }
    cases
}

fn read_line(line: &str, source: &str, cases: &mut Vec<Case>) {
    let columns: Vec<Vec<&str>> =
        line.split_whitespace().map(|column| column.split(',').collect()).collect();
    let [clients, sockets, protocols, paths, targets, arrow, first, second] = columns.as_slice()
    else {
        panic!("{source}: {} columns instead of 8", columns.len());
    };
    assert_eq!(arrow, &["->"], "{source}");
    let sockets = match sockets.as_slice() {
        ["both"] => &[true, false][..],
        ["on"] => &[true],
        ["off"] => &[false],
        other => panic!("{source}: sockets {other:?}"),
    };
    for client in clients {
        for socket_programs in sockets {
            for protocol in protocols {
                for path in paths {
                    for target in targets {
                        cases.push(Case {
                            source: source.to_owned(),
                            client: (*client).to_owned(),
                            socket_programs: *socket_programs,
                            protocol: (*protocol).to_owned(),
                            path: (*path).to_owned(),
                            target: (*target).to_owned(),
                            expected: expected(first[0], second[0], client, target, source),
                        });
                    }
                }
            }
        }
    }
}

fn expected(first: &str, second: &str, client: &str, target: &str, source: &str) -> Expected {
    if let Some(ms) = second.strip_suffix("ms") {
        let ms = ms.parse().unwrap_or_else(|e| panic!("{source}: {second}: {e}"));
        return Expected::Failure { kind: first.to_owned(), within: Duration::from_millis(ms) };
    }
    let name = |word: &str| match word {
        "client" => client.to_owned(),
        "target" => target.to_owned(),
        other => other.to_owned(),
    };
    Expected::Response { server: name(first), source: name(second) }
}

/// The name of a failed connection in the tables.
pub fn failure_name(error: &str) -> String {
    match error {
        "ConnectionRefused" => "refused",
        "TimedOut" => "timeout",
        "HostUnreachable" => "unreachable",
        "NetworkUnreachable" => "no-route",
        other => other,
    }
    .to_owned()
}

/// The name of an echo's outcome in the tables.
pub fn echo_name(echo: Echo, size: usize) -> String {
    match echo {
        Echo::Reply(length) if length == size => "reply".to_owned(),
        Echo::Reply(length) => format!("reply-of-{length}-bytes"),
        Echo::Error(3, 0) => "no-route".to_owned(),
        Echo::Error(3, 1) => "unreachable".to_owned(),
        Echo::Error(3, 3) => "refused".to_owned(),
        Echo::Error(11, _) => "ttl-exceeded".to_owned(),
        Echo::Error(kind, code) => format!("icmp-{kind}-{code}"),
        Echo::Timeout => "timeout".to_owned(),
    }
}
