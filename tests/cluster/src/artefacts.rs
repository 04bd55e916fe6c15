//! State of the cluster at the moment a test fails, below `target/test-artefacts/cluster/<test>/`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;

use crate::{docker, nodes, try_kubectl};

/// Commands of `sluice` whose output is saved for each node.
const OF_AGENTS: [&str; 7] =
    ["status", "service", "endpoint", "policy list", "conntrack", "drops", "counters"];

/// The folder of the current test.
///
/// # Errors
/// It cannot be created.
pub fn folder() -> io::Result<PathBuf> {
    let test = thread::current().name().unwrap_or("unnamed").replace("::", "-");
    let given = std::env::var_os("SLUICE_TEST_ARTEFACTS").map(PathBuf::from);
    let target = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/test-artefacts");
    let folder = given.unwrap_or_else(target).join("cluster").join(test);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Saves agent logs, agent state and the objects of `namespace` if the current test is failing.
pub fn save_if_failing(namespace: &str) {
    if !thread::panicking() {
        return;
    }
    let Ok(dir) = folder() else { return };
    let save = |name: &str, result: Result<String, String>| {
        let text = result.unwrap_or_else(|e| e);
        let _ = fs::write(dir.join(name), text + "\n");
    };
    let objects = "pods,services,endpointslices,networkpolicies,events";
    save("objects.yaml", try_kubectl(&["-n", namespace, "get", objects, "-o", "yaml"], ""));
    let system = ["-n", "sluice-system"];
    save("agents.txt", try_kubectl(&[&system[..], &["get", "pods", "-o", "wide"]].concat(), ""));
    let selector = ["logs", "-l", "app.kubernetes.io/name=sluice", "--prefix", "--tail=2000"];
    save("agents.log", try_kubectl(&[&system[..], &selector].concat(), ""));
    // `nodes` fails the test if the API server is not reachable; then nothing can be saved.
    if try_kubectl(&["get", "nodes", "-o", "name"], "").is_err() {
        return;
    }
    for node in nodes() {
        for command in ["ip -4 route", "ip neigh", "ip -d link"] {
            let words =
                [&["exec", node.name.as_str()], &command.split(' ').collect::<Vec<_>>()[..]];
            let name = format!("{}-{}.txt", node.name, command.replace(' ', "-"));
            save(&name, docker(&words.concat()));
        }
        for command in OF_AGENTS {
            let words = [&command.split(' ').collect::<Vec<_>>()[..], &["-o", "json"]].concat();
            let name = format!("{}-sluice-{}.json", node.name, command.replace(' ', "-"));
            save(&name, crate::sluice(&node, &words));
        }
    }
    println!("artefacts: {}", dir.display());
    // A pod that does not start says why here only.
    let warnings = ["-n", namespace, "get", "events", "--field-selector=type=Warning"];
    println!("{}", try_kubectl(&warnings, "").unwrap_or_else(|e| e));
}
