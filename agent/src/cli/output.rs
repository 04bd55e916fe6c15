//! Output of the commands: a table for people, JSON for programs, both from the same rows.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// Spaces between two columns, as in kubectl.
const GAP: usize = 3;

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Table.
    Text,
    /// JSON.
    Json,
}

/// A row that a command lists.
pub trait TableRow: Serialize {
    /// Column titles.
    const HEADER: &'static [&'static str];

    /// Cells in the order of the titles.
    fn cells(&self) -> Vec<String>;
}

/// Prints `rows` to standard output. Without rows the text output is one line on standard error:
/// "No `kind` found."
///
/// # Errors
/// Standard output cannot be written.
pub fn print_rows<R: TableRow>(output: Output, kind: &str, rows: &[R]) -> anyhow::Result<()> {
    match output {
        Output::Json => return print_json(rows),
        Output::Text if rows.is_empty() => eprintln!("No {kind} found."),
        Output::Text => print_text(&table(rows))?,
    }
    Ok(())
}

/// Prints `value` as indented JSON.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(out))
        .and_then(|()| out.flush())
        .context("write to standard output")
}

/// Prints text that ends with a newline.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to standard output")
}

/// Whether the reader of standard output closed it, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io_error)
}

fn table<R: TableRow>(rows: &[R]) -> String {
    let header = R::HEADER.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(header).chain(rows.iter().map(TableRow::cells)).collect();
    align(&lines)
}

/// Lines with aligned columns and no trailing spaces.
pub fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column) + GAP).collect();
    let mut text = String::new();
    for line in lines {
        let padded: String =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl TableRow for Pair {
        const HEADER: &'static [&'static str] = &["NAME", "N"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
    }

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        let text = table(&[Pair("a", "1"), Pair("längst", "")]);
        assert_eq!(text, "NAME     N\na        1\nlängst\n");
    }

    #[test]
    fn only_a_broken_pipe_is_a_broken_pipe() {
        let error = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind)).context("x");
        assert!(is_broken_pipe(&error(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&error(io::ErrorKind::PermissionDenied)));
    }
}
