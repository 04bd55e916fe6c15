//! `sluice drops --all-nodes`: the same command in the pods of all agents, through the API server.
//!
//! The agents do not serve drops on the network. The API server authorizes the command: it requires `create`
//! on `pods/exec` in the namespace of the agents.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use super::super::output::Output;
use super::{Args, print};
use crate::api::DropRow;
use crate::source::agents::{Agent, Agents};

/// Longest time until an agent has answered, without `--follow`.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two searches for agents, and two attempts with one.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Lines that wait to be printed.
const QUEUE: usize = 64;

/// A message from the agent of a node.
enum Message {
    Row(Box<DropRow>),
    /// The stream ended, with the reason.
    End(String),
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
            follow(&agents, args, output).await
        } else {
            once(&agents, args, output).await
        }
    })
}

async fn once(agents: &Agents, args: &Args, output: Output) -> anyhow::Result<()> {
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
    print(rows, args, output)?;
    if failed > 0 {
        bail!("{failed} of {} agents did not answer", running.len());
    }
    Ok(())
}

async fn all_rows(agents: &Agents, agent: &Agent) -> anyhow::Result<Vec<DropRow>> {
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
    serde_json::from_str(&text)
        .context("cannot parse the response; the agent may run another version")
}

async fn follow(agents: &Agents, args: &Args, output: Output) -> anyhow::Result<()> {
    let (sender, mut messages) = mpsc::channel(QUEUE);
    let mut connected = HashSet::new();
    let mut seen = Seen::default();
    let mut search = interval(RETRY_INTERVAL);
    loop {
        tokio::select! {
            _ = search.tick() => match agents.list().await {
                Ok(running) => {
                    for agent in running.into_iter().filter(|agent| connected.insert(agent.node.clone())) {
                        tokio::spawn(listen(agents.clone(), agent, sender.clone()));
                    }
                }
                Err(error) if connected.is_empty() => return Err(error),
                Err(error) => eprintln!("sluice: {error:#}"),
            },
            Some((node, message)) = messages.recv() => match message {
                Message::Row(row) if seen.is_new(&node, &row) => {
                    print(vec![on(*row, &node)], args, output)?;
                }
                Message::Row(_) => {}
                Message::End(reason) => {
                    eprintln!("sluice: node {node}: {reason}; reconnecting");
                    connected.remove(&node);
                }
            },
        }
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

/// Forwards the rows of one agent until the stream ends.
async fn listen(agents: Agents, agent: Agent, messages: mpsc::Sender<(String, Message)>) {
    let reason = match read_rows(&agents, &agent, &messages).await {
        Ok(()) => "the agent has ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    // Not at once: the search may find the same agent again.
    sleep(RETRY_INTERVAL).await;
    let _ = messages.send((agent.node, Message::End(reason))).await;
}

async fn read_rows(
    agents: &Agents,
    agent: &Agent,
    messages: &mpsc::Sender<(String, Message)>,
) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    let pass_on = async move {
        while let Some(line) = lines.recv().await {
            let row = serde_json::from_str(&line)
                .context("cannot parse the response; the agent may run another version")?;
            let message = (agent.node.clone(), Message::Row(Box::new(row)));
            if messages.send(message).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let command = ["sluice", "drops", "-o", "json", "--follow"];
    let (ended, passed_on) = tokio::join!(agents.run(agent, &command, sender), pass_on);
    passed_on.and(ended)
}

fn on(row: DropRow, node: &str) -> DropRow {
    DropRow { node: Some(node.to_owned()), ..row }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_of_a_node_is_shown_once() {
        let row = |sequence| DropRow { sequence, ..super::super::tests::row() };
        let mut seen = Seen::default();
        let of = |seen: &mut Seen, node, numbers: [u64; 3]| {
            numbers.map(|sequence| seen.is_new(node, &row(sequence)))
        };
        assert_eq!(of(&mut seen, "n1", [5, 6, 9]), [true; 3]);
        assert_eq!(of(&mut seen, "n2", [5, 5, 6]), [true, false, true]);
        assert_eq!(of(&mut seen, "n1", [6, 9, 10]), [false, false, true]);
    }
}
