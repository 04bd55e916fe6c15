//! `sluice drops --all-nodes`: the same command in the pods of all agents, through the API server.
//!
//! The agents do not serve drops on the network. The API server authorizes the command: it requires `create`
//! on `pods/exec` in the namespace of the agents.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Args;
use super::print::{Item, Lost, OTHER_VERSION, Printer, print};
use crate::api::DropRow;
use crate::cli::output::Output;
use crate::source::agents::{Agent, Agents};

/// Longest time until an agent has answered, without `--follow`.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two searches for agents, and two attempts with one.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Lines that wait to be printed.
const QUEUE: usize = 64;

/// The agents, and commands in their pods.
trait Cluster: Clone + Send + Sync + 'static {
    /// As [`Agents::list`].
    fn list(&self) -> impl Future<Output = anyhow::Result<Vec<Agent>>> + Send;

    /// As [`Agents::run`].
    fn run(
        &self,
        agent: &Agent,
        command: &[&str],
        lines: mpsc::Sender<String>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

impl Cluster for Agents {
    async fn list(&self) -> anyhow::Result<Vec<Agent>> {
        Agents::list(self).await
    }

    async fn run(
        &self,
        agent: &Agent,
        command: &[&str],
        lines: mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        Agents::run(self, agent, command, lines).await
    }
}

/// What the tasks of `--follow` report.
enum Message {
    /// The running agents.
    Agents(anyhow::Result<Vec<Agent>>),
    /// A line of the agent of a node.
    Item(String, Item),
    /// The stream of a node ended, with the reason.
    End(String, String),
    /// The agent of a node may be asked again.
    Retry(String),
}

/// Prints the drops of all nodes.
///
/// # Errors
/// The API server does not respond or denies the request, or no agent runs. Without `--follow`, also if an agent
/// does not respond.
pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let agents = Agents::new(&args.agent_namespace).await?;
        if args.follow {
            follow(agents, &mut Printer::standard(args.filter.clone(), output)).await
        } else {
            once(&agents, args, output).await
        }
    })
}

async fn once(agents: &impl Cluster, args: &Args, output: Output) -> anyhow::Result<()> {
    let running = agents.list().await?;
    if running.is_empty() {
        bail!("no agent runs in the namespace {}; see --agent-namespace", args.agent_namespace);
    }
    let (mut rows, mut failed) = (Vec::new(), 0);
    for agent in &running {
        let answer = timeout(RESPONSE_TIMEOUT, all_rows(agents, agent)).await;
        let answer =
            answer.unwrap_or_else(|_| bail!("no answer within {} s", RESPONSE_TIMEOUT.as_secs()));
        match answer {
            Ok(of_node) => rows.extend(of_node.into_iter().map(|row| on(row, &agent.node))),
            Err(error) => {
                failed += 1;
                eprintln!("sluice: node {}: {error:#}", agent.node);
            }
        }
    }
    rows.sort_by(|a, b| a.at.cmp(&b.at));
    print(rows, args.filter.as_deref(), output)?;
    if failed > 0 {
        bail!("{failed} of {} agents did not answer", running.len());
    }
    Ok(())
}

async fn all_rows(agents: &impl Cluster, agent: &Agent) -> anyhow::Result<Vec<DropRow>> {
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    let collect = async {
        let mut text = String::new();
        while let Some(line) = lines.recv().await {
            text.push_str(&line);
            text.push('\n');
        }
        text
    };
    let command = ["sluice", "drops", "-o", "json"];
    let (ended, text) = tokio::join!(agents.run(agent, &command, sender), collect);
    ended?;
    serde_json::from_str(&text).context(OTHER_VERSION)
}

/// Searches agents, listens to each, and prints what they report, until the output fails. What one task waits
/// for delays no line of another one.
async fn follow<O: Write, E: Write>(
    cluster: impl Cluster,
    printer: &mut Printer<O, E>,
) -> anyhow::Result<()> {
    let (sender, mut messages) = mpsc::channel(QUEUE);
    tokio::spawn(search(cluster.clone(), sender.clone()));
    let mut connected = HashSet::new();
    let mut found = false;
    let mut seen = Seen::default();
    while let Some(message) = messages.recv().await {
        match message {
            Message::Agents(Ok(running)) => {
                found = true;
                for agent in running {
                    if connected.insert(agent.node.clone()) {
                        tokio::spawn(listen(cluster.clone(), agent, sender.clone()));
                    }
                }
            }
            Message::Agents(Err(error)) if !found => return Err(error),
            Message::Agents(Err(error)) => printer.message(&format!("{error:#}")),
            Message::Item(node, Item::Drop(row)) => {
                if seen.is_new(&node, &row) {
                    printer.print(&Item::Drop(Box::new(on(*row, &node))))?;
                }
            }
            Message::Item(node, Item::Lost(lost)) => {
                printer.print(&Item::Lost(Lost { node: Some(node), ..lost }))?;
            }
            Message::End(node, reason) => {
                printer.message(&format!("node {node}: {reason}; reconnecting"));
            }
            Message::Retry(node) => {
                connected.remove(&node);
            }
        }
    }
    Ok(())
}

/// Searches agents until nothing receives them.
async fn search(cluster: impl Cluster, messages: mpsc::Sender<Message>) {
    while messages.send(Message::Agents(cluster.list().await)).await.is_ok() {
        sleep(RETRY_INTERVAL).await;
    }
}

/// Last number of each node: an agent that is connected again begins with the drops that it has kept.
#[derive(Default)]
struct Seen(HashMap<String, u64>);

impl Seen {
    fn is_new(&mut self, node: &str, row: &DropRow) -> bool {
        let last = self.0.entry(node.to_owned()).or_default();
        let is_new = row.sequence > *last;
        *last = row.sequence.max(*last);
        is_new
    }
}

/// Forwards the lines of one agent until the stream ends.
async fn listen(cluster: impl Cluster, agent: Agent, messages: mpsc::Sender<Message>) {
    let reason = match read_lines(&cluster, &agent, &messages).await {
        Ok(()) => "the agent has ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let _ = messages.send(Message::End(agent.node.clone(), reason)).await;
    // Not at once: the search may find the same agent again.
    sleep(RETRY_INTERVAL).await;
    let _ = messages.send(Message::Retry(agent.node)).await;
}

async fn read_lines(
    cluster: &impl Cluster,
    agent: &Agent,
    messages: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    let pass_on = async move {
        while let Some(line) = lines.recv().await {
            let item = Message::Item(agent.node.clone(), Item::parse(&line)?);
            if messages.send(item).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let command = ["sluice", "drops", "-o", "json", "--follow"];
    let (ended, passed_on) = tokio::join!(cluster.run(agent, &command, sender), pass_on);
    passed_on.and(ended)
}

fn on(row: DropRow, node: &str) -> DropRow {
    DropRow { node: Some(node.to_owned()), ..row }
}

#[cfg(test)]
mod tests;
