//! Drops as text and JSON.

use std::io::{self, Stderr, Stdout, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::output::{Output, print_json, print_text};
use crate::api::{DropRow, EndRow};

/// What a response is if it cannot be parsed.
pub const OTHER_VERSION: &str = "cannot parse the response; the agent may run another version";

/// A part of what `--follow` prints. In JSON, each is a line.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Item {
    /// A drop.
    Drop(Box<DropRow>),
    /// Drops that are not shown.
    Lost(Lost),
    /// The agent, of a node where several are asked, is of a former version, and what is missing is not counted.
    /// Always a message.
    #[serde(skip)]
    Uncounted(Option<String>),
}

/// So many drops are missing since the last time: the programs or the agent have lost their events, or the agent
/// has kept only later ones.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// Their number.
    pub lost_events: u64,
    /// The agent does not keep them any more: [`DropRow::sequence`] of the next one that it has kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_sequence: Option<u64>,
    /// The node, where several are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl Item {
    /// So many drops are missing, unless none is; see [`Lost`].
    pub fn lost(lost_events: u64, before_sequence: Option<u64>) -> Option<Item> {
        (lost_events > 0).then_some(Item::Lost(Lost { lost_events, before_sequence, node: None }))
    }

    /// The same of a node.
    pub fn on(self, node: &str) -> Item {
        let node = Some(node.to_owned());
        match self {
            Item::Drop(row) => Item::Drop(Box::new(DropRow { node, ..*row })),
            Item::Lost(lost) => Item::Lost(Lost { node, ..lost }),
            Item::Uncounted(_) => Item::Uncounted(node),
        }
    }

    /// Parses a line of JSON by its key: `lostEvents`, or `sequence` of a drop.
    ///
    /// # Errors
    /// The line is neither.
    pub fn parse(line: &str) -> anyhow::Result<Item> {
        let value: Value = serde_json::from_str(line).context(OTHER_VERSION)?;
        if value.get("lostEvents").is_some() {
            serde_json::from_value(value).map(Item::Lost).context(OTHER_VERSION)
        } else if value.get("sequence").is_some() {
            serde_json::from_value(value).map(Item::Drop).context(OTHER_VERSION)
        } else {
            Err(anyhow!("a line has neither `sequence` nor `lostEvents`").context(OTHER_VERSION))
        }
    }
}

/// Prints what `--follow` shows.
pub struct Printer<O, E> {
    /// Text in the lines of drops that are shown.
    pub filter: Option<String>,
    /// Format of drops.
    pub output: Output,
    /// Where drops are printed.
    pub out: O,
    /// Where messages are printed.
    pub error: E,
}

impl Printer<Stdout, Stderr> {
    /// Prints to standard output, and messages to standard error.
    pub fn standard(filter: Option<String>, output: Output) -> Printer<Stdout, Stderr> {
        Printer { filter, output, out: io::stdout(), error: io::stderr() }
    }
}

impl<O: Write, E: Write> Printer<O, E> {
    /// Prints an item, if it is wanted.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&mut self, item: &Item) -> anyhow::Result<()> {
        let of = |node: &Option<String>| {
            node.as_deref().map(|node| format!("node {node}: ")).unwrap_or_default()
        };
        let text = match (item, self.output) {
            (Item::Drop(row), _) if !is_wanted(row, self.filter.as_deref()) => return Ok(()),
            (Item::Uncounted(node), _) => {
                self.message(&format!(
                    "{}the agent is of a former version; drops that are missing are not counted",
                    of(node)
                ));
                return Ok(());
            }
            (_, Output::Json) => serde_json::to_string(item).context("JSON of a line")? + "\n",
            (Item::Drop(row), Output::Text) => line(row),
            (Item::Lost(Lost { lost_events, node, .. }), Output::Text) => {
                self.message(&format!(
                    "{}dropped packets that are missing here: {lost_events}; `sluice counters` includes them",
                    of(node)
                ));
                return Ok(());
            }
        };
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.context("write to standard output")
    }

    /// Prints a message. Like that of other commands, it is lost if standard error is closed.
    pub fn message(&mut self, text: &str) {
        let _ = writeln!(self.error, "sluice: {text}");
    }
}

/// Prints the rows that are wanted.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(mut rows: Vec<DropRow>, filter: Option<&str>, output: Output) -> anyhow::Result<()> {
    rows.retain(|row| is_wanted(row, filter));
    match output {
        Output::Json => print_json(&rows),
        Output::Text if rows.is_empty() => {
            eprintln!("No dropped packets found.");
            Ok(())
        }
        Output::Text => print_text(&rows.iter().map(line).collect::<String>()),
    }
}

fn is_wanted(row: &DropRow, filter: Option<&str>) -> bool {
    filter.is_none_or(|text| line(row).contains(text))
}

/// A drop in a line, with one for the labels of its pods and for each reason.
fn line(row: &DropRow) -> String {
    let end = |pods: &[EndRow], address: IpAddr, port: u16| {
        let address = match port {
            0 => address.to_string(),
            port => SocketAddr::new(address, port).to_string(),
        };
        let names = pods.iter().map(|pod| pod.pod.as_str()).collect::<Vec<_>>().join(",");
        if names.is_empty() { address } else { format!("{names} {address}") }
    };
    let DropRow { at, node, reason, protocol, source_pods, destination_pods, .. } = row;
    let source = end(source_pods, row.source, row.source_port);
    let destination = end(destination_pods, row.destination, row.destination_port);
    let node = node.as_deref().map(|node| format!(" {node}")).unwrap_or_default();
    let packet = if row.reply { "reply, " } else { "" };
    let place = format!("{} of {}, {packet}{} bytes", row.program, row.device, row.length);
    let mut text = format!("{at}{node} {reason} {protocol} {source} -> {destination}, {place}");
    if !row.policies.is_empty() {
        text.push_str(&format!(", isolated by {}", row.policies.join(", ")));
    }
    text.push('\n');
    for EndRow { pod, labels } in source_pods.iter().chain(destination_pods) {
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels = labels.collect::<Vec<_>>().join(",");
        if !labels.is_empty() {
            text.push_str(&format!("  {pod} has {labels}\n"));
        }
    }
    for reason in &row.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn row() -> DropRow {
        let pod = |name: &str, labels: &[(&str, &str)]| EndRow {
            pod: name.to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        DropRow {
            sequence: 1,
            first_sequence: Some(1),
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            reason: "policy_ingress".to_owned(),
            protocol: "TCP".to_owned(),
            source: "10.244.2.9".parse().unwrap(),
            source_port: 40_000,
            destination: "10.244.1.7".parse().unwrap(),
            destination_port: 5432,
            program: "to_pod".to_owned(),
            device: "slc7".to_owned(),
            length: 74,
            reply: false,
            mid_stream: false,
            node: Some("n2".to_owned()),
            source_pods: vec![pod("lab/far", &[])],
            destination_pods: vec![pod("shop/db-0", &[("app", "db"), ("tier", "back")])],
            pod: Some("shop/db-0".to_owned()),
            direction: Some(crate::api::Direction::Ingress),
            policies: vec!["shop/db".to_owned()],
            reasons: vec!["because".to_owned()],
        }
    }

    pub fn numbered(sequence: u64, first_sequence: u64) -> DropRow {
        DropRow { sequence, first_sequence: Some(first_sequence), node: None, ..row() }
    }

    /// An item in two or three words, the node first.
    pub fn short(item: &Item) -> String {
        let (node, text) = match item {
            Item::Drop(row) => (&row.node, format!("drop {}", row.sequence)),
            Item::Lost(Lost { lost_events, node, .. }) => (node, format!("lost {lost_events}")),
            Item::Uncounted(node) => (node, "uncounted".to_owned()),
        };
        node.as_ref().map(|node| format!("{node} {text}")).unwrap_or(text)
    }

    #[test]
    fn drop_by_policy_is_shown_with_pods_labels_policies_and_reasons() {
        assert_eq!(
            line(&row()),
            "2026-01-01T00:00:00.000Z n2 policy_ingress TCP lab/far 10.244.2.9:40000 -> \
             shop/db-0 10.244.1.7:5432, to_pod of slc7, 74 bytes, isolated by shop/db\n  shop/db-0 has app=db,tier=back\n  \
             because\n"
        );
    }

    fn printed(items: &[Item], filter: Option<&str>, output: Output) -> [String; 2] {
        let (mut out, mut error) = (Vec::new(), Vec::new());
        let filter = filter.map(str::to_owned);
        let mut printer = Printer { filter, output, out: &mut out, error: &mut error };
        items.iter().for_each(|item| printer.print(item).unwrap());
        [out, error].map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn lost_events_are_a_line_of_json_or_a_message() {
        let items = [
            Item::Drop(Box::new(row())),
            Item::lost(5, None).unwrap(),
            Item::lost(1, Some(7)).unwrap().on("n2"),
        ];
        let [json, message] = printed(&items, None, Output::Json);
        assert_eq!(message, "");
        let lines: Vec<Item> = json.lines().map(|line| Item::parse(line).unwrap()).collect();
        assert_eq!(lines, items);
        let lost: Vec<&str> = json.lines().skip(1).collect();
        assert_eq!(
            lost,
            [r#"{"lostEvents":5}"#, r#"{"lostEvents":1,"beforeSequence":7,"node":"n2"}"#]
        );

        // A filter of drops does not hide it: lost ones may match.
        let [text, message] = printed(&items, Some("nothing"), Output::Text);
        assert_eq!(text, "");
        assert_eq!(
            message,
            "sluice: dropped packets that are missing here: 5; `sluice counters` includes them\n\
             sluice: node n2: dropped packets that are missing here: 1; `sluice counters` includes them\n"
        );
    }

    #[test]
    fn agent_that_does_not_count_is_named_in_a_message() {
        let items = [Item::Uncounted(None), Item::Uncounted(None).on("n2")];
        for output in [Output::Json, Output::Text] {
            let [text, message] = printed(&items, Some("nothing"), output);
            assert_eq!(text, "");
            let expected =
                "the agent is of a former version; drops that are missing are not counted\n";
            assert_eq!(message, format!("sluice: {expected}sluice: node n2: {expected}"));
        }
    }

    #[test]
    fn line_of_another_version_is_an_error() {
        let own = "a line has neither `sequence` nor `lostEvents`";
        for line in ["{}", "[]", "7", r#"{"at":"","node":"n2"}"#] {
            let error = Item::parse(line).unwrap_err();
            assert_eq!(format!("{error:#}"), format!("{OTHER_VERSION}: {own}"), "{line}");
        }
        for line in ["sluice", r#"{"lostEvents":-1}"#, r#"{"sequence":1}"#] {
            let error = Item::parse(line).unwrap_err();
            assert_eq!(error.to_string(), OTHER_VERSION, "{line}");
        }
    }

    #[test]
    fn dropped_reply_is_named_as_such() {
        let row = DropRow { reply: true, program: "from_pod".to_owned(), ..row() };
        let text = line(&row);
        assert!(
            text.contains(" -> shop/db-0 10.244.1.7:5432, from_pod of slc7, reply, 74 bytes"),
            "{text}"
        );
    }
}
