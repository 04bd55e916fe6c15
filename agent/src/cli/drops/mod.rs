//! `sluice drops`: dropped packets and, for policies, why.

mod all_nodes;
mod missing;
mod print;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use self::missing::{LostEvents, Position};
use self::print::{Item, Printer, print};
use super::REQUEST_TIMEOUT;
use super::output::Output;
use crate::api::{self, DropRow, Request};

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
        anyhow::Ok(rows.with_lost_events()?)
    };
    if !args.follow {
        return print(read(0)?.0, args.filter.as_deref(), output);
    }
    let mut printer = Printer::standard(args.filter.clone(), output);
    follow(read, |item| printer.print(&item), thread::sleep)
}

/// Reads the drops with a number and later ones, and the numbers of lost events by reason; prints what is new,
/// until one of them fails.
fn follow(
    mut read: impl FnMut(u64) -> anyhow::Result<(Vec<DropRow>, BTreeMap<String, u64>)>,
    mut print: impl FnMut(Item) -> anyhow::Result<()>,
    mut sleep: impl FnMut(Duration),
) -> anyhow::Result<()> {
    let (mut position, mut known) = (Position::default(), LostEvents::default());
    loop {
        let (rows, numbers) = read(position.next())?;
        for row in rows {
            if let Some(missing) = position.take(&row) {
                Item::lost(missing).map_or(Ok(()), &mut print)?;
                print(Item::Drop(Box::new(row)))?;
            }
        }
        Item::lost(known.take(numbers)).map_or(Ok(()), &mut print)?;
        sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// What the agent has at a time.
    fn of_agent(drops: &[Duration], now: Duration) -> Vec<DropRow> {
        let numbered = (1u64..).zip(drops).filter(|(_, at)| **at <= now);
        numbered.map(|(sequence, _)| print::tests::numbered(sequence, 1)).collect()
    }

    fn lost(number: u64) -> BTreeMap<String, u64> {
        [("rate_limit".to_owned(), number)].into()
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
        let rows = |numbers: std::ops::Range<u64>, first| -> Vec<DropRow> {
            let row = |sequence| print::tests::numbered(sequence, first);
            numbers.map(row).collect()
        };
        // The output was blocked before the second response, and the agent restarted before the last but one.
        let responses =
            [rows(1..3, 1), rows(103..104, 1), rows(104..105, 1), rows(9000..9001, 9000), vec![]];
        let (mut responses, mut asked) = (responses.into_iter(), Vec::new());
        let read = |from| {
            asked.push(from);
            let rows = responses.next().ok_or_else(|| anyhow::anyhow!("the end"))?;
            Ok((rows, lost(7)))
        };
        let mut printed = Vec::new();
        let print = |item| {
            printed.push(print::tests::short(&item));
            Ok(())
        };
        follow(read, print, drop).unwrap_err();
        assert_eq!(asked, [0, 3, 104, 105, 9001, 9001]);
        let expected = ["drop 1", "drop 2", "lost 100", "drop 103", "drop 104", "drop 9000"];
        assert_eq!(printed, expected);
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
