//! `sluice drops`: dropped packets and, for policies, why.

mod all_nodes;
mod missing;
mod print;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use self::missing::LostEvents;
use self::print::{Item, Lost, Printer, print};
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
    let (mut from, mut known) = (0, LostEvents::default());
    loop {
        let (rows, numbers) = read(from)?;
        from = rows.last().map_or(from, |last| last.sequence + 1);
        rows.into_iter().try_for_each(|row| print(Item::Drop(Box::new(row))))?;
        let lost_events = known.take(numbers);
        if lost_events > 0 {
            print(Item::Lost(Lost { lost_events, node: None }))?;
        }
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
        numbered.map(|(sequence, _)| DropRow { sequence, ..print::tests::row() }).collect()
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
    fn lost_events_are_printed_after_the_drops_among_which_they_are_missing() {
        let mut answers = [(1, 40), (0, 40), (2, 45), (0, 1045)].into_iter();
        let mut sequence = 0;
        let read = |_| {
            let (rows, number) = answers.next().ok_or_else(|| anyhow::anyhow!("the end"))?;
            let row = |_| {
                sequence += 1;
                DropRow { sequence, ..print::tests::row() }
            };
            Ok(((0..rows).map(row).collect(), lost(number)))
        };
        let mut printed = Vec::new();
        let print = |item| {
            printed.push(match item {
                Item::Drop(row) => format!("drop {}", row.sequence),
                Item::Lost(Lost { lost_events, .. }) => format!("lost {lost_events}"),
            });
            Ok(())
        };
        follow(read, print, drop).unwrap_err();
        assert_eq!(printed, ["drop 1", "drop 2", "drop 3", "lost 5", "lost 1000"]);
    }
}
