//! Packets of one more attempt, after an expectation did not hold.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{artefacts, nodes, try_kubectl};

/// Most bytes of a packet that are kept.
const SNAP_LEN: &str = "256";
/// Runs tcpdump in a node until its own standard input ends, also because this process was killed.
const SCRIPT: &str = "\
exec 3<&0; tcpdump --immediate-mode -U -i any -s \"$0\" -w - </dev/null & cat <&3 >/dev/null; kill $!; wait";
/// Longest time until a capture has begun, and until it has ended.
const START: Duration = Duration::from_secs(5);
/// Bytes of the header of a pcap file.
const HEADER: u64 = 24;

/// Makes an attempt once more while the packets of all nodes are captured, among the artefacts of the test.
pub fn attempt_again(attempt: impl FnOnce() -> Result<(), String>) {
    // `nodes` fails the test if the API server is not reachable.
    if try_kubectl(&["get", "nodes", "-o", "name"], "").is_err() {
        return;
    }
    let Ok(folder) = artefacts::folder() else { return };
    let names: Vec<String> = nodes().into_iter().map(|node| node.name).collect();
    let (result, files) = record(&names, &folder, attempt);
    let result = result.err().unwrap_or_else(|| "the expectation holds".to_owned());
    println!("captures of another attempt: {}; {result}", files.len());
}

/// Runs `attempt` while the packets of these nodes are captured; returns the captures below `folder`.
/// A node without tcpdump has none.
pub fn record<T>(
    nodes: &[String],
    folder: &Path,
    attempt: impl FnOnce() -> T,
) -> (T, Vec<PathBuf>) {
    let captures: Vec<Capture> =
        nodes.iter().filter_map(|node| Capture::start(node, folder)).collect();
    let start = Instant::now();
    let is_running = |capture: &Capture| size(&capture.path) >= HEADER;
    while !captures.iter().all(is_running) && start.elapsed() < START {
        thread::sleep(Duration::from_millis(20));
    }
    let result = attempt();
    let ended: Vec<PathBuf> = captures.into_iter().map(|capture| capture.path.clone()).collect();
    let (files, empty): (Vec<_>, Vec<_>) = ended.into_iter().partition(|path| size(path) >= HEADER);
    for path in empty {
        let _ = fs::remove_file(path);
    }
    (result, files)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// A running capture.
struct Capture {
    child: Child,
    path: PathBuf,
}

impl Capture {
    fn start(node: &str, folder: &Path) -> Option<Capture> {
        let path = folder.join(format!("{node}.pcap"));
        let file = File::create(&path).ok()?;
        let child = Command::new("docker")
            .args(["exec", "-i", node, "sh", "-c", SCRIPT, SNAP_LEN])
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Capture { child, path })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < START {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
