//! Agents that print what they are told, on a paused clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::time::{Instant, sleep_until};

use super::super::print::tests::{numbered, short};
use super::*;

/// What the agent of a node prints, by the second, and when and how its stream ends.
type Script = (Vec<(f64, String)>, Option<(f64, &'static str)>);
/// Those of each node, one for each connection.
type Scripts = BTreeMap<&'static str, Vec<Script>>;

/// A cluster whose agents print what they are told, one script for each connection. Without a script, an
/// agent is not listed.
#[derive(Clone)]
struct Scripted {
    scripts: Arc<Mutex<Scripts>>,
    start: Instant,
    /// From then on, the API server does not answer searches.
    silent_from: f64,
}

impl Scripted {
    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }
}

impl Cluster for Scripted {
    async fn list(&self) -> anyhow::Result<Vec<Agent>> {
        if Instant::now() >= self.at(self.silent_from) {
            std::future::pending::<()>().await;
        }
        let scripts = self.scripts.lock().unwrap();
        let running = scripts.iter().filter(|(_, scripts)| !scripts.is_empty());
        let agent = |node: &str| Agent { node: node.to_owned(), pod: format!("agent-of-{node}") };
        Ok(running.map(|(node, _)| agent(node)).collect())
    }

    async fn run(
        &self,
        agent: &Agent,
        command: &[&str],
        lines: mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        assert_eq!(command[..4], ["sluice", "drops", "-o", "json"]);
        let (printed, end) = self.scripts.lock().unwrap().get_mut(&*agent.node).unwrap().remove(0);
        for (seconds, line) in printed {
            sleep_until(self.at(seconds)).await;
            lines.send(line).await?;
        }
        match end {
            None => std::future::pending().await,
            Some((seconds, reason)) => {
                sleep_until(self.at(seconds)).await;
                if reason.is_empty() { Ok(()) } else { Err(anyhow!(reason)) }
            }
        }
    }
}

/// Text with the tenths of seconds after which it was written.
struct Timed<'a>(Instant, &'a mut Vec<(u128, String)>);

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8(buffer.to_vec()).unwrap();
        self.1.push((self.0.elapsed().as_millis() / 100, text));
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn drop_line(sequence: u64) -> String {
    line_of_agent(1, sequence)
}

/// A drop of the agent whose numbers begin with `first`.
fn line_of_agent(first: u64, sequence: u64) -> String {
    serde_json::to_string(&numbered(sequence, first)).unwrap()
}

/// Lines and messages of so many seconds; lines with the tenths of seconds.
async fn followed(
    scripts: Scripts,
    silent_from: f64,
    seconds: u64,
) -> (Vec<(u128, String)>, String) {
    let start = Instant::now();
    let cluster = Scripted { scripts: Arc::new(Mutex::new(scripts)), start, silent_from };
    let (mut out, mut error) = (Vec::new(), Vec::new());
    let mut printer = Printer {
        filter: None,
        output: Output::Json,
        out: Timed(start, &mut out),
        error: &mut error,
    };
    let followed = timeout(Duration::from_secs(seconds), follow(cluster, &mut printer)).await;
    assert!(followed.is_err(), "it ended: {followed:?}");
    let lines = out.into_iter().map(|(at, line)| (at, short(&Item::parse(&line).unwrap())));
    (lines.collect(), String::from_utf8(error).unwrap())
}

#[tokio::test(start_paused = true)]
async fn lines_of_all_nodes_are_merged_at_once_and_name_their_node() {
    let lost = r#"{"lostEvents":9}"#.to_owned();
    let scripts = [
        ("n1", vec![(vec![(0.0, drop_line(1)), (0.4, drop_line(2)), (9.9, drop_line(3))], None)]),
        (
            "n2",
            vec![
                (vec![(0.2, drop_line(1)), (0.6, lost)], Some((3.0, ""))),
                // It has kept the first drop.
                (vec![(10.0, drop_line(1)), (10.1, drop_line(2))], None),
            ],
        ),
        (
            "n3",
            vec![(vec![], Some((0.1, "exec: pod not found"))), (vec![(12.0, drop_line(4))], None)],
        ),
        ("n4", vec![(vec![(0.5, "{}".to_owned()), (0.7, drop_line(1))], None)]),
    ];
    let (printed, messages) = followed(scripts.into(), 11.0, 20).await;
    let expected = [
        (0, "n1 drop 1"),
        (2, "n2 drop 1"),
        (4, "n1 drop 2"),
        (6, "n2 lost 9"),
        (99, "n1 drop 3"),
        (101, "n2 drop 2"),
        (120, "n3 drop 4"),
    ];
    assert_eq!(printed, expected.map(|(at, text)| (at, text.to_owned())));
    assert_eq!(
        messages,
        "sluice: node n3: exec: pod not found; reconnecting\n\
         sluice: node n4: cannot parse the response; the agent may run another version: a line has neither \
         `sequence` nor `lostEvents`; reconnecting\n\
         sluice: node n2: the agent has ended; reconnecting\n"
    );
}

#[tokio::test(start_paused = true)]
async fn drops_that_an_agent_does_not_keep_until_it_is_connected_again_are_missing() {
    let lost = || r#"{"lostEvents":10,"beforeSequence":19}"#.to_owned();
    let (first, last) = (Some((1.0, "")), None);
    let in_connection = vec![(0.1, drop_line(8)), (0.2, lost()), (0.3, drop_line(19))];
    let scripts = [
        ("gap", vec![(in_connection, first), (vec![(12.0, drop_line(25))], last)]),
        // The connection ends between what is missing and the drop after it.
        (
            "ended",
            vec![
                (vec![(0.2, drop_line(8)), (0.6, lost())], first),
                (vec![(12.5, drop_line(19))], last),
            ],
        ),
        (
            "kept",
            vec![
                (vec![(0.4, drop_line(8))], first),
                (vec![(12.1, drop_line(7)), (12.2, drop_line(8)), (12.3, drop_line(9))], last),
            ],
        ),
        (
            "restarted",
            vec![
                (vec![(0.5, drop_line(8))], first),
                (vec![(12.4, line_of_agent(500, 500))], Some((13.0, ""))),
                // It has started again, and kept only its last drops.
                (vec![(22.0, line_of_agent(900, 903)), (22.1, line_of_agent(900, 904))], last),
            ],
        ),
    ];
    let (printed, _) = followed(scripts.into(), 30.0, 30).await;
    let expected = [
        (1, "gap drop 8"),
        (2, "ended drop 8"),
        (3, "gap lost 10"),
        (3, "gap drop 19"),
        (4, "kept drop 8"),
        (5, "restarted drop 8"),
        (120, "gap lost 5"),
        (120, "gap drop 25"),
        (123, "kept drop 9"),
        (124, "restarted drop 500"),
        (125, "ended lost 10"),
        (125, "ended drop 19"),
        (220, "restarted lost 3"),
        (220, "restarted drop 903"),
        (221, "restarted drop 904"),
    ];
    assert_eq!(printed, expected.map(|(at, text)| (at, text.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn agent_of_a_former_version_is_reported_once() {
    let line = |sequence| {
        let row = DropRow { first_sequence: None, ..numbered(sequence, 1) };
        serde_json::to_string(&row).unwrap()
    };
    let first = (vec![(0.1, line(8)), (0.2, line(9))], Some((1.0, "")));
    let scripts = [("old", vec![first, (vec![(12.0, line(30))], None)])];
    let (printed, messages) = followed(scripts.into(), 11.0, 20).await;
    let expected = [(1, "old drop 8"), (2, "old drop 9"), (120, "old drop 30")];
    assert_eq!(printed, expected.map(|(at, text)| (at, text.to_owned())));
    assert_eq!(
        messages,
        "sluice: node old: the agent is of a former version; drops that are missing are not counted\n\
         sluice: node old: the agent has ended; reconnecting\n"
    );
}

/// Without `--follow`, agents that do not answer delay the command once.
#[tokio::test(start_paused = true)]
async fn silent_agents_are_waited_for_together() {
    let start = Instant::now();
    let names: Vec<&'static str> = (0..20).map(|n| &*format!("silent-{n}").leak()).collect();
    let silent = names.into_iter().map(|name| (name, vec![(vec![], None)]));
    let rows = |sequence| format!("[{}]", drop_line(sequence));
    let answer = |seconds: f64, line| vec![(vec![(seconds, line)], Some((seconds, "")))];
    let last = [
        ("n1", answer(2.0, rows(2))),
        ("n2", answer(1.0, rows(1))),
        ("n3", vec![(vec![], Some((1.0, "exec: pod not found")))]),
    ];
    let scripts = Arc::new(Mutex::new(silent.chain(last).collect()));
    let cluster = Scripted { scripts, start, silent_from: 100.0 };
    let agents = cluster.list().await.unwrap();
    let (found, failed) = ask_all(&cluster, agents).await;
    assert_eq!(start.elapsed(), RESPONSE_TIMEOUT);
    let found: Vec<_> = found.iter().map(|row| (row.node.as_deref(), row.sequence)).collect();
    assert_eq!(found, [(Some("n1"), 2), (Some("n2"), 1)]);
    assert_eq!(failed.len(), 21);
    assert_eq!(failed["n3"].to_string(), "exec: pod not found");
    assert_eq!(failed["silent-0"].to_string(), "no answer within 20 s");
}

#[tokio::test(start_paused = true)]
async fn command_ends_if_no_search_succeeds() {
    #[derive(Clone)]
    struct Refuses;
    impl Cluster for Refuses {
        async fn list(&self) -> anyhow::Result<Vec<Agent>> {
            Err(anyhow!("pods is forbidden"))
        }

        async fn run(&self, _: &Agent, _: &[&str], _: mpsc::Sender<String>) -> anyhow::Result<()> {
            Ok(())
        }
    }
    let (filter, output) = (None, Output::Text);
    let mut printer = Printer { filter, output, out: Vec::new(), error: Vec::new() };
    let followed = timeout(Duration::from_secs(20), follow(Refuses, &mut printer)).await;
    assert_eq!(followed.unwrap().unwrap_err().to_string(), "pods is forbidden");
}
