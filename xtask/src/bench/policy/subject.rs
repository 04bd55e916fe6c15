//! The cluster under measurement: the pods that policies select, their number, and the output of the agents.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::policies::{self, ALLOW, ROLE, SELECTED};
use super::report::Memory;
use crate::bench::cluster::{BenchCluster, IMAGE, PORT};
use crate::progress;

const SYSTEM: &str = "sluice-system";
/// Time until other policies apply, on a busy machine.
const PROGRAMMED: Duration = Duration::from_secs(60);

/// The cluster with its agents.
pub struct Subject {
    /// Client and servers.
    pub cluster: BenchCluster,
    /// The agents' pods: of the client's node, of the other node.
    agents: [String; 2],
    /// Number of policies that select the pods; `None` if the last change did not finish.
    selected: Option<usize>,
}

impl Subject {
    /// Gives the pods of a new cluster their roles.
    ///
    /// # Errors
    /// When kubectl fails, or the cluster has policies of a run that was interrupted.
    pub fn new(cluster: BenchCluster) -> Result<Subject> {
        let policies = cluster.kubectl(&["get", "networkpolicies", "-A", "-o", "name"])?;
        ensure!(
            policies.is_empty(),
            "the cluster has policies of another run: remove it by `cargo xtask cluster down`"
        );
        for (pod, role) in [("client", "client"), ("near", "server"), ("far", "server")] {
            let labels = [format!("{ROLE}={role}"), format!("{SELECTED}=0")];
            cluster.kubectl(&["label", "pod", pod, &labels[0], &labels[1]])?;
        }
        let agent = |of_client: bool| -> Result<String> {
            let node = format!("spec.nodeName={}", cluster.node(of_client));
            let get = ["-n", SYSTEM, "get", "pods", "--field-selector", &node, "-o", "name"];
            let pod = cluster.kubectl(&get)?;
            ensure!(!pod.is_empty(), "no agent on {}", cluster.node(of_client));
            Ok(pod)
        };
        let agents = [agent(true)?, agent(false)?];
        Ok(Subject { cluster, agents, selected: Some(0) })
    }

    /// A pod of the namespace `default` on the client's node or the other one; without a command, that of the image.
    pub fn pod(&self, name: &str, labels: &Value, of_client: bool, command: &[&str]) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": name, "labels": labels},
            "spec": {
                "nodeName": self.cluster.node(of_client),
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": command,
                }],
            },
        })
    }

    /// Lets so many policies select the pods, and waits until both agents have programmed it.
    ///
    /// # Errors
    /// When kubectl fails or an agent takes longer than a minute.
    pub fn select(&mut self, number: usize) -> Result<()> {
        if self.selected == Some(number) {
            return Ok(());
        }
        self.selected = None;
        let label = format!("{SELECTED}={number}");
        self.cluster.kubectl(&["label", "pod", "client", "near", "far", "--overwrite", &label])?;
        self.wait_selected(&[number])?;
        self.selected = Some(number);
        Ok(())
    }

    /// Waits until both agents have programmed that the policies of these numbers, and of no others, each select a
    /// client with its servers.
    ///
    /// # Errors
    /// When an agent takes longer than a minute.
    pub fn wait_selected(&self, numbers: &[usize]) -> Result<()> {
        // On the client's node, the client and a server.
        for (agent, pods) in self.agents.iter().zip([2, 1]) {
            progress::wait(&format!("{numbers:?} policies"), PROGRAMMED, || {
                let rows = self.sluice(agent, &["policy", "list", ALLOW, "-o", "json"]);
                let rows = rows.map_err(|e| format!("{e:#}"))?;
                if only_select(&rows, numbers, pods) { Ok(()) } else { Err(rows.to_string()) }
            })?;
        }
        Ok(())
    }

    /// Address and port of the server on the client's node, or of that on the other node.
    pub fn target(&self, same_node: bool) -> String {
        format!("{}:{PORT}", self.cluster.server(same_node).pod)
    }

    /// Rows of policies in the maps of the client's node, by table, once the agent has no problem: while the
    /// maps of policies are replaced by larger ones, it has one.
    ///
    /// # Errors
    /// When the agent does not answer, or goes on having a problem.
    pub fn rows(&self) -> Result<Vec<(String, u64)>> {
        let status = progress::wait("agent without problems", PROGRAMMED, || {
            self.sluice(&self.agents[0], &["status", "-o", "json"]).map_err(|e| format!("{e:#}"))
        })?;
        Ok(policy_rows(&status["tables"]))
    }

    /// Memory of the agents and of their maps, the larger of both nodes.
    ///
    /// # Errors
    /// When a command on a node fails.
    pub fn memory(&self, name: String) -> Result<Memory> {
        let agents = self.cluster.memory()?;
        let mut maps = 0;
        for of_client in [true, false] {
            let text = self.cluster.on_node(self.cluster.node(of_client), &["sh", "-c", MAPS])?;
            maps = maps.max(map_bytes(&text));
        }
        ensure!(maps > 0, "no agent has a map open");
        Ok(Memory {
            name,
            agent_kib: agents.iter().map(|(_, kib)| *kib).max().unwrap_or_default(),
            maps_kib: maps / 1024,
        })
    }

    /// A command that prints further drops of the client's node, as an operator runs it.
    pub fn follow_drops(&self) -> Command {
        let mut command = self.cluster.command("kubectl");
        command.args(sluice(&self.agents[0])).args(["drops", "--follow", "-o", "json"]);
        command
    }

    /// The JSON that a command of `sluice` prints.
    fn sluice(&self, agent: &str, words: &[&str]) -> Result<Value> {
        let text = self.cluster.kubectl(&[&sluice(agent)[..], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("unexpected output: {text:?}"))
    }
}

/// Arguments of kubectl that run `sluice` in an agent's pod.
fn sluice(agent: &str) -> [&str; 8] {
    ["-n", SYSTEM, "exec", agent, "-c", "agent", "--", "sluice"]
}

/// Prints id and bytes of each map that an agent has open.
const MAPS: &str = "for p in $(pgrep -x sluice); do for f in /proc/$p/fdinfo/*; do \
                    awk '/^memlock:/ {m = $2} /^map_id:/ {print $2, m}' $f; done; done";

/// The bytes of all maps, each once.
fn map_bytes(text: &str) -> u64 {
    let maps = text.lines().filter_map(|line| {
        let (id, bytes) = line.split_once(' ')?;
        Some((id, bytes.trim().parse::<u64>().ok()?))
    });
    maps.collect::<std::collections::BTreeMap<_, _>>().into_values().sum()
}

/// Whether the policies of each of these numbers select so many pods of the node, and those of others none.
fn only_select(rows: &Value, numbers: &[usize], pods: u64) -> bool {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let selected = |number: usize| {
        let allowing = format!("default/{}", policies::allow(number));
        rows.iter().any(|row| row["policy"] == allowing && row["localPods"] == pods)
    };
    let wanted = || numbers.iter().copied().filter(|number| *number > 0);
    let selecting = rows.iter().filter(|row| row["localPods"] != 0).count();
    wanted().all(selected) && selecting == wanted().count()
}

/// The tables of policies among those of a node.
fn policy_rows(tables: &Value) -> Vec<(String, u64)> {
    let tables = tables.as_object().into_iter().flatten();
    tables
        .filter(|(table, _)| table.starts_with("policy_"))
        .filter_map(|(table, rows)| Some((table.clone(), rows.as_u64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_of_the_numbers_select_all_their_pods_and_others_none() {
        let row = |number: usize, pods: u64| json!({"policy": format!("default/allow-{number}"), "localPods": pods});
        let only_select = |one, many, numbers: &[usize]| {
            super::only_select(&json!([row(1, one), row(10_000, many)]), numbers, 2)
        };
        for (numbers, [one, many]) in
            [(&[1][..], [2, 0]), (&[10_000, 0], [0, 2]), (&[0, 1, 10_000], [2, 2]), (&[0], [0, 0])]
        {
            assert!(only_select(one, many, numbers), "{numbers:?}");
            for (one, many) in [(one + 1, many), (one, many + 1), (2 - one, many), (one, 2 - many)]
            {
                assert!(!only_select(one, many, numbers), "{numbers:?}: {one}, {many}");
            }
        }
        assert!(!super::only_select(&json!([]), &[1], 2));
        assert!(super::only_select(&json!([]), &[0], 2));
    }

    #[test]
    fn rows_are_those_of_policies() {
        let tables = json!({"services": 7, "policy_peers": 3, "policy_ports": 0});
        let expected = [("policy_peers".to_owned(), 3), ("policy_ports".to_owned(), 0)];
        assert_eq!(policy_rows(&tables), expected);
    }

    #[test]
    fn maps_count_once() {
        assert_eq!(map_bytes("7 4096\n9 8192\n7 4096\n\n"), 12_288);
    }
}
