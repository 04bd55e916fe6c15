//! `sluice drops --all-nodes`: the same command in the pods of all agents, through the API server.
//!
//! The agents do not serve drops on the network. The API server authorizes the command: it requires `create`
//! on `pods/exec` in the namespace of the agents.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Args;
use super::missing::Position;
use super::print::{Item, Lost, OTHER_VERSION, Printer, print};
use crate::api::DropRow;
use crate::cli::output::Output;
use crate::source::agents::{Agent, Agents};

/// Longest time until an agent has answered, without `--follow`.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Agents that are asked at once, without `--follow`.
const CONNECTIONS: usize = 32;
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
    /// What is shown of an agent.
    Item(Item),
    /// The stream of a node ended, with the reason.
    End(String, String),
    /// The agent of a node may be asked again, from this position.
    Retry(String, Position),
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
    let count = running.len();
    let (rows, failed) = ask_all(agents, running).await;
    for (node, error) in &failed {
        eprintln!("sluice: node {node}: {error:#}");
    }
    print(rows, args.filter.as_deref(), output)?;
    if !failed.is_empty() {
        bail!("{} of {count} agents did not answer", failed.len());
    }
    Ok(())
}

/// The drops of all nodes by time, and the errors by node.
async fn ask_all(
    cluster: &impl Cluster,
    agents: Vec<Agent>,
) -> (Vec<DropRow>, BTreeMap<String, anyhow::Error>) {
    let (mut rows, mut failed) = (Vec::new(), BTreeMap::new());
    let (mut waiting, mut asked) = (agents.into_iter(), JoinSet::new());
    loop {
        while asked.len() < CONNECTIONS
            && let Some(agent) = waiting.next()
        {
            asked.spawn(ask(cluster.clone(), agent));
        }
        match asked.join_next().await {
            None => break,
            Some(Ok((node, Ok(of_node)))) => {
                let of_node = of_node.into_iter();
                rows.extend(of_node.map(|row| DropRow { node: Some(node.clone()), ..row }));
            }
            Some(Ok((node, Err(error)))) => {
                failed.insert(node, error);
            }
            Some(Err(ended)) => {
                failed.insert("unknown".to_owned(), ended.into());
            }
        }
    }
    // Of equal times, by node: the order of the responses differs each time.
    rows.sort_by(|a, b| (&a.at, &a.node, a.sequence).cmp(&(&b.at, &b.node, b.sequence)));
    (rows, failed)
}

/// The drops of a node.
async fn ask(cluster: impl Cluster, agent: Agent) -> (String, anyhow::Result<Vec<DropRow>>) {
    let answer = timeout(RESPONSE_TIMEOUT, all_rows(&cluster, &agent)).await;
    let silent = |_| Err(anyhow!("no answer within {} s", RESPONSE_TIMEOUT.as_secs()));
    (agent.node, answer.unwrap_or_else(silent))
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
    // Positions of the nodes, except while their agents are listened to: an agent that is connected again begins
    // with the drops that it has kept.
    let mut positions: HashMap<String, Option<Position>> = HashMap::new();
    let mut found = false;
    while let Some(message) = messages.recv().await {
        match message {
            Message::Agents(Ok(running)) => {
                found = true;
                for agent in running {
                    let position = positions.entry(agent.node.clone());
                    if let Some(position) = position.or_insert(Some(Position::default())).take() {
                        tokio::spawn(listen(cluster.clone(), agent, position, sender.clone()));
                    }
                }
            }
            Message::Agents(Err(error)) if !found => return Err(error),
            Message::Agents(Err(error)) => printer.message(&format!("{error:#}")),
            Message::Item(item) => printer.print(&item)?,
            Message::End(node, reason) => {
                printer.message(&format!("node {node}: {reason}; reconnecting"));
            }
            Message::Retry(node, position) => {
                positions.insert(node, Some(position));
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

/// Forwards what is new of one agent until the stream ends.
async fn listen(
    cluster: impl Cluster,
    agent: Agent,
    mut position: Position,
    messages: mpsc::Sender<Message>,
) {
    let reason = match read_lines(&cluster, &agent, &mut position, &messages).await {
        Ok(()) => "the agent has ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let _ = messages.send(Message::End(agent.node.clone(), reason)).await;
    // Not at once: the search may find the same agent again.
    sleep(RETRY_INTERVAL).await;
    let _ = messages.send(Message::Retry(agent.node, position)).await;
}

async fn read_lines(
    cluster: &impl Cluster,
    agent: &Agent,
    position: &mut Position,
    messages: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    let pass_on = async move {
        while let Some(line) = lines.recv().await {
            let items = match Item::parse(&line)? {
                Item::Drop(row) => {
                    let is_uncounted = position.is_new() && row.first_sequence.is_none();
                    let uncounted = is_uncounted.then_some(Item::Uncounted(None));
                    let missing = position.take(&row);
                    let lost = missing.and_then(|missing| Item::lost(missing, Some(row.sequence)));
                    [uncounted, lost, missing.map(|_| Item::Drop(row))]
                }
                // Counted with the drop: the connection may end before it.
                Item::Lost(Lost { before_sequence: Some(_), .. }) => [None, None, None],
                item => [Some(item), None, None],
            };
            for item in items.into_iter().flatten() {
                if messages.send(Message::Item(item.on(&agent.node))).await.is_err() {
                    return Ok(());
                }
            }
        }
        anyhow::Ok(())
    };
    let command = ["sluice", "drops", "-o", "json", "--follow"];
    let (ended, passed_on) = tokio::join!(cluster.run(agent, &command, sender), pass_on);
    passed_on.and(ended)
}

#[cfg(test)]
mod tests;
