//! `sluice drops`: dropped packets and, for policies, why.

mod all_nodes;
mod missing;
mod print;

use std::path::Path;
use std::thread;
use std::time::Duration;

use self::missing::{LostEvents, Position};
use self::print::{Item, Printer, print};
use super::REQUEST_TIMEOUT;
use super::output::Output;
use crate::api::{self, DropRow, DropsEnd, Request};

/// Time between two requests with `--follow`. The agent has a drop after 100 ms.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `sluice drops`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show further drops as they come, and how many are missing among them.
    #[arg(short, long)]
    follow: bool,
    /// Show only drops whose lines contain this text: a pod, a label, an address, a reason, a policy.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show drops of all nodes: run this command in each agent pod through the API server, with your
    /// kubeconfig; requires `list` on pods and `create` on pods/exec in the namespace of the agents.
    #[arg(short = 'A', long)]
    all_nodes: bool,
    /// Namespace of the agents, for --all-nodes.
    #[arg(long, value_name = "NAME", default_value = "sluice-system", requires = "all_nodes")]
    agent_namespace: String,
}

/// Prints the last drops, and further ones.
///
/// # Errors
/// The agent does not answer.
pub fn run(socket: &Path, args: &Args, output: Output) -> anyhow::Result<()> {
    if args.all_nodes {
        return all_nodes::run(args, output);
    }
    let read = |from| {
        let rows = api::call(socket, &Request::Drops { from }, REQUEST_TIMEOUT)?;
        anyhow::Ok(rows.with_end()?)
    };
    if !args.follow {
        return print(read(0)?.0, args.filter.as_deref(), output);
    }
    let mut printer = Printer::standard(args.filter.clone(), output);
    follow(read, |item| printer.print(&item), thread::sleep)
}

/// Reads the drops with a number and later ones, and the end of the response; prints what is new, until one of
/// them fails.
fn follow(
    mut read: impl FnMut(u64) -> anyhow::Result<(Vec<DropRow>, DropsEnd)>,
    mut print: impl FnMut(Item) -> anyhow::Result<()>,
    mut sleep: impl FnMut(Duration),
) -> anyhow::Result<()> {
    let (mut position, mut known) = (Position::default(), LostEvents::default());
    let mut is_counted = true;
    loop {
        let (mut rows, mut end) = read(position.next())?;
        if position.is_of_former_agent(end.first_sequence) {
            (rows, end) = read(0)?;
        }
        for row in rows {
            if let Some(missing) = position.take(&row) {
                Item::lost(missing, Some(row.sequence)).map_or(Ok(()), &mut print)?;
                print(Item::Drop(Box::new(row)))?;
            }
        }
        if is_counted && end.lost_events.is_empty() {
            is_counted = false;
            print(Item::Uncounted(None))?;
        }
        Item::lost(known.take(end), None).map_or(Ok(()), &mut print)?;
        sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::ops::Range;

    use super::*;

    /// What the agent has at a time.
    fn of_agent(drops: &[Duration], now: Duration) -> Vec<DropRow> {
        let numbered = (1u64..).zip(drops).filter(|(_, at)| **at <= now);
        numbered.map(|(sequence, _)| print::tests::numbered(sequence, 1)).collect()
    }

    fn lost(number: u64) -> DropsEnd {
        let lost_events = [("rate_limit".to_owned(), number)].into();
        DropsEnd { first_sequence: Some(1), lost_events }
    }

    /// What [`follow`] asks for and prints, if the agent whose first drop has the first number has kept these drops
    /// at each request.
    fn followed(agents: &[(u64, Range<u64>)]) -> (Vec<String>, Vec<String>) {
        let (requests, mut printed) = (RefCell::new(Vec::new()), Vec::new());
        let mut agents = agents.iter();
        let read = |from| {
            let (first, kept) = agents.next().ok_or_else(|| anyhow::anyhow!("the end"))?;
            requests.borrow_mut().push(format!("from {from}"));
            let rows = kept.clone().filter(|sequence| *sequence >= from);
            let rows = rows.map(|sequence| print::tests::numbered(sequence, *first));
            Ok((rows.collect(), DropsEnd { first_sequence: Some(*first), ..lost(7) }))
        };
        let print = |item| {
            printed.push(print::tests::short(&item));
            Ok(())
        };
        let sleep = |_| requests.borrow_mut().push("pause".to_owned());
        follow(read, print, sleep).unwrap_err();
        (requests.into_inner(), printed)
    }

    #[test]
    fn drop_is_printed_once_within_500_ms() {
        let drops: Vec<Duration> = (0..200).map(|n| Duration::from_millis(n * 43)).collect();
        let (now, printed) = (Cell::new(Duration::ZERO), RefCell::new(Vec::new()));
        let read = |from| {
            anyhow::ensure!(now.get() <= Duration::from_secs(10), "the end");
            let rows = of_agent(&drops, now.get()).into_iter().filter(|row| row.sequence >= from);
            Ok((rows.collect(), lost(7)))
        };
        let print = |item| {
            let Item::Drop(row) = item else { panic!("{item:?}") };
            printed.borrow_mut().push((row.sequence, now.get()));
            Ok(())
        };
        follow(read, print, |pause| now.set(now.get() + pause)).unwrap_err();
        let printed = printed.into_inner();
        let numbers: Vec<u64> = printed.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(numbers, (1..=200).collect::<Vec<u64>>());
        for (at, (sequence, printed)) in drops.iter().zip(&printed) {
            assert!(*printed - *at <= Duration::from_millis(500), "{sequence}: {printed:?}");
        }
    }

    #[test]
    fn drops_that_the_agent_does_not_keep_any_more_are_missing() {
        // The output was blocked before the second response.
        let (requests, printed) = followed(&[(1, 1..3), (1, 103..104), (1, 103..105)]);
        assert_eq!(requests, ["from 0", "pause", "from 3", "pause", "from 104", "pause"]);
        assert_eq!(printed, ["drop 1", "drop 2", "lost 100", "drop 103", "drop 104"]);
    }

    #[test]
    fn agent_that_started_again_is_asked_for_all_its_drops_at_once() {
        let expected = ["from 0", "pause", "from 10", "from 0", "pause"];
        for (first, kept, printed) in [
            (9000, 9000..9002, &["drop 9", "drop 9000", "drop 9001"][..]),
            // The clock was set back; all numbers of the new agent are smaller, or some.
            (2, 2..4, &["drop 9", "drop 2", "drop 3"]),
            (8, 8..11, &["drop 9", "drop 8", "drop 9", "drop 10"]),
            (2, 8..9, &["drop 9", "lost 6", "drop 8"]),
        ] {
            let new = (first, kept.clone());
            let found = followed(&[(5, 9..10), new.clone(), new]);
            assert_eq!(found.0, expected, "{kept:?}");
            assert_eq!(found.1, printed, "{kept:?}");
        }
    }

    #[test]
    fn agent_of_a_former_version_is_reported_once() {
        let mut printed = Vec::new();
        let mut responses = 3;
        let read = |_| {
            responses -= 1;
            anyhow::ensure!(responses >= 0, "the end");
            Ok((Vec::new(), DropsEnd::default()))
        };
        let print = |item| {
            printed.push(item);
            Ok(())
        };
        follow(read, print, drop).unwrap_err();
        assert_eq!(printed, [Item::Uncounted(None)]);
    }

    #[test]
    fn lost_events_are_printed_after_the_drops_among_which_they_are_missing() {
        let mut answers = [(1, 40), (0, 40), (2, 45), (0, 1045)].into_iter();
        let mut sequence = 0;
        let read = |_| {
            let (rows, number) = answers.next().ok_or_else(|| anyhow::anyhow!("the end"))?;
            let row = |_| {
                sequence += 1;
                print::tests::numbered(sequence, 1)
            };
            Ok(((0..rows).map(row).collect(), lost(number)))
        };
        let mut printed = Vec::new();
        let print = |item| {
            printed.push(print::tests::short(&item));
            Ok(())
        };
        follow(read, print, drop).unwrap_err();
        assert_eq!(printed, ["drop 1", "drop 2", "drop 3", "lost 5", "lost 1000"]);
    }
}
