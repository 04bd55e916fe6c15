//! The agents of all nodes, and commands in their pods, for the command line on an operator's machine.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, ListParams};
use kube::{Client, ResourceExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

/// Label of the agents.
pub const LABEL: &str = "app.kubernetes.io/name=sluice";
/// Container of the agent.
pub const CONTAINER: &str = "agent";

/// The agents in a namespace, as a kubeconfig allows.
#[derive(Clone)]
pub struct Agents {
    pods: Api<Pod>,
    namespace: String,
}

/// A running agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Name of its node.
    pub node: String,
    /// Name of its pod.
    pub pod: String,
}

impl Agents {
    /// Reads the kubeconfig, or the service account of the pod.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub async fn new(namespace: &str) -> anyhow::Result<Agents> {
        let client = Client::try_default().await.context("read the kubeconfig")?;
        Ok(Agents { pods: Api::namespaced(client, namespace), namespace: namespace.to_owned() })
    }

    /// The running agents.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn list(&self) -> anyhow::Result<Vec<Agent>> {
        let list = self.pods.list(&ListParams::default().labels(LABEL)).await;
        let list = list.with_context(|| {
            format!("list the pods with {LABEL} in the namespace {}", self.namespace)
        })?;
        let running = list.items.into_iter().filter(|pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        let agent = |pod: Pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone())?;
            Some(Agent { node, pod: pod.name_any() })
        };
        Ok(running.filter_map(agent).collect())
    }

    /// Runs a command in the container of an agent and passes on the lines that it prints. Ends when the
    /// command does, or when the receiver is closed.
    ///
    /// # Errors
    /// The API server refuses, the connection breaks, or the command writes to standard error.
    pub async fn run(
        &self,
        agent: &Agent,
        command: &[&str],
        lines: mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        let streams =
            AttachParams::default().container(CONTAINER).stdin(false).stdout(true).stderr(true);
        let mut process =
            self.pods.exec(&agent.pod, command.to_vec(), &streams).await.context("exec")?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let mut printed = BufReader::new(stdout.context("no output")?).lines();
        while let Some(line) = printed.next_line().await? {
            if lines.send(line).await.is_err() {
                return Ok(());
            }
        }
        let mut problem = String::new();
        if let Some(mut stderr) = stderr {
            stderr.read_to_string(&mut problem).await?;
        }
        anyhow::ensure!(problem.trim().is_empty(), "{}", problem.trim());
        Ok(())
    }
}
