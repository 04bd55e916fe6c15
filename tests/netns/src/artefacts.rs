//! The state of a failed test's nodes, as files in `target/test-artefacts/netns/<test>/`.
//!
//! ```text
//! captures/*.pcap     packet captures that ran
//! node1/agent.log     output of its agents
//! node1/network.txt   addresses, routes, neighbours, tc filters and programs, nftables
//! node1/maps.txt      FRONTENDS, SERVICES, LOCAL_PODS, NODE_CONFIG, the tables of flows, NETWORKS,
//!                     counters
//! node1/pods.txt      addresses, routes and neighbours in each pod
//! ```
//! Nothing here panics: the test is already unwinding.

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::binaries::checkout;
use crate::process::run;
use crate::skip::current_test;
use crate::{Namespaces, Node, dataplane};

/// Deadline of one command.
const DEADLINE: Duration = Duration::from_secs(5);

/// A host whose state is written.
#[derive(Debug)]
pub(crate) struct Recorded {
    name: String,
    namespaces: Namespaces,
    log: Option<PathBuf>,
}

impl Recorded {
    pub(crate) fn host(name: &str, namespaces: &Namespaces) -> Recorded {
        Recorded { name: name.to_owned(), namespaces: namespaces.clone(), log: None }
    }

    pub(crate) fn node(node: &Node) -> Recorded {
        Recorded {
            name: node.name.clone(),
            namespaces: node.namespaces.clone(),
            log: Some(node.log.clone()),
        }
    }
}

/// The folder of a test's artefacts.
pub fn folder_of(test: &str) -> PathBuf {
    let given = std::env::var_os("SLUICE_TEST_ARTEFACTS").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| checkout().join("target/test-artefacts"));
    folder.join("netns").join(test.replace("::", "."))
}

/// Writes the artefacts of the test on the calling thread and prints their folder.
pub(crate) fn write(hosts: &[Recorded], folder: &Path) {
    let target = folder_of(&current_test());
    let _ = fs::remove_dir_all(&target);
    for host in hosts {
        let target = target.join(&host.name);
        let _ = fs::create_dir_all(&target);
        let _ = fs::write(target.join("network.txt"), network(&host.namespaces));
        if let Some(log) = &host.log {
            let _ = fs::copy(log, target.join("agent.log"));
            let maps = catch_unwind(AssertUnwindSafe(|| dataplane::dump(&host.namespaces)));
            let maps = maps.unwrap_or_else(|_| "maps: not readable\n".to_owned());
            let _ = fs::write(target.join("maps.txt"), maps);
            let _ = fs::write(target.join("pods.txt"), pods(&host.namespaces));
        }
    }
    let captures = target.join("captures");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "pcap") {
            let _ = fs::create_dir_all(&captures);
            let _ = fs::copy(&path, captures.join(entry.file_name()));
        }
    }
    eprintln!("artefacts: {}", target.canonicalize().unwrap_or(target).display());
}

fn network(namespaces: &Namespaces) -> String {
    let mut text = String::new();
    for command in [
        "ip -s -d link",
        "ip addr",
        "ip rule",
        "ip route show table all",
        "ip neigh",
        "nft list ruleset",
    ] {
        section(&mut text, namespaces, command);
    }
    for device in devices(namespaces) {
        for direction in ["ingress", "egress"] {
            section(&mut text, namespaces, &format!("tc -s filter show dev {device} {direction}"));
        }
        let programs =
            catch_unwind(AssertUnwindSafe(|| dataplane::programs_in(namespaces, &device)));
        let _ = writeln!(text, "programs on {device}: {programs:?}\n");
    }
    text
}

fn pods(namespaces: &Namespaces) -> String {
    let mut text = String::new();
    let sandboxes = output(namespaces, "ls /run/netns");
    for sandbox in sandboxes.split_whitespace() {
        for command in ["-s link", "addr", "route", "neigh"] {
            section(&mut text, namespaces, &format!("ip -n {sandbox} {command}"));
        }
    }
    text
}

fn devices(namespaces: &Namespaces) -> Vec<String> {
    let links = output(namespaces, "ip -br link");
    let names = links.lines().filter_map(|line| line.split(['@', ' ']).next());
    names.filter(|name| *name != "lo" && !name.is_empty()).map(str::to_owned).collect()
}

fn section(text: &mut String, namespaces: &Namespaces, command: &str) {
    let _ = writeln!(text, "# {command}\n{}", output(namespaces, command));
}

fn output(namespaces: &Namespaces, command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    match run(namespaces.command(program).args(words), DEADLINE) {
        Ok(output) => {
            let bytes = if output.status.success() { output.stdout } else { output.stderr };
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(e) => format!("{e}\n"),
    }
}
