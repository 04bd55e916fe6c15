//! The listed mutations, `xtask/mutations/*.txt`.
//!
//! ```text
//! # Why, where it is not obvious.
//! [id] unit:sluice-core+netns agent/core/src/slots.rs
//! - exact text, which occurs once in the file; several lines are joined
//! + replacement; no line removes the text
//! ```
//! The second field names the checks, in the order in which they run until one fails:
//! `unit:PACKAGE`, `packet[:FILTER]` or `netns[:FILTER]`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::cache::{Inputs, checkout, sorted_entries};

/// A level of tests that can detect a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Unit tests of one package
    Unit,
    /// The eBPF programs under BPF_PROG_TEST_RUN
    Packet,
    /// CNI binary and agent in network namespaces
    Netns,
}

impl Level {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Unit => "unit",
            Level::Packet => "packet",
            Level::Netns => "netns",
        }
    }
}

/// Tests that run against a mutation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// The level.
    pub level: Level,
    /// The package at the unit level, a filter for test names at the others.
    pub argument: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.level.name())?;
        self.argument.as_ref().map_or(Ok(()), |argument| write!(f, ":{argument}"))
    }
}

/// One change of the product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Unique name.
    pub id: String,
    /// Name of the list that contains it.
    pub group: String,
    /// Tests that should detect it, at least one.
    pub checks: Vec<Check>,
    /// The changed file, relative to the checkout.
    pub path: String,
    /// Text that occurs once in the file.
    pub find: String,
    /// What replaces it.
    pub replace: String,
}

impl Mutation {
    /// Applies the mutation to the text of its file.
    ///
    /// # Errors
    /// When the text to replace does not occur exactly once, or equals the replacement.
    pub fn apply(&self, text: &str) -> Result<String> {
        let count = text.matches(&self.find).count();
        ensure!(count == 1, "{}: its text occurs {count} times in {}", self.id, self.path);
        ensure!(self.find != self.replace, "{}: the replacement changes nothing", self.id);
        Ok(text.replacen(&self.find, &self.replace, 1))
    }

    /// Hash of the mutation and of the file that it changes.
    pub fn hash(&self, text: &str) -> String {
        let checks = self.checks.iter().map(Check::to_string).collect::<Vec<_>>().join("+");
        let inputs = Inputs::default().text(&checks).text(&self.path);
        inputs.text(&self.find).text(&self.replace).text(text).key()
    }
}

/// Reads every list.
///
/// # Errors
/// When a list cannot be read, has an unknown line, or two mutations have the same name.
pub fn all() -> Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    for path in sorted_entries(&checkout().join("xtask/mutations"))? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let group = path.file_stem().unwrap_or_default().to_string_lossy();
        mutations.extend(parse(&group, &text).with_context(|| format!("{}", path.display()))?);
    }
    let mut ids = BTreeSet::new();
    for mutation in &mutations {
        ensure!(ids.insert(&mutation.id), "two mutations are named {}", mutation.id);
    }
    Ok(mutations)
}

/// Returns one message for each mutation that does not fit its file.
pub fn misfits(mutations: &[Mutation]) -> Vec<String> {
    let fits = |mutation: &Mutation| {
        let path = checkout().join(&mutation.path);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read {}", mutation.id, mutation.path))?;
        mutation.apply(&text)
    };
    mutations.iter().filter_map(|m| fits(m).err().map(|e| format!("{e:#}"))).collect()
}

/// Parses one list.
fn parse(group: &str, text: &str) -> Result<Vec<Mutation>> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let context = || format!("line {}: {line:?}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            mutations.push(parse_header(group, header).with_context(context)?);
            continue;
        }
        let mutation = mutations.last_mut().context("text precedes the first mutation")?;
        if let Some(found) = line.strip_prefix("- ") {
            ensure!(mutation.replace.is_empty(), "{}: `-` follows `+`", context());
            push_line(&mut mutation.find, found);
        } else if let Some(replacement) = line.strip_prefix("+ ") {
            push_line(&mut mutation.replace, replacement);
        } else {
            bail!("{}: expected `[id]`, `- `, `+ ` or `#`", context());
        }
    }
    for mutation in &mutations {
        ensure!(!mutation.find.trim().is_empty(), "{}: nothing to replace", mutation.id);
    }
    Ok(mutations)
}

fn parse_header(group: &str, header: &str) -> Result<Mutation> {
    let (id, rest) = header.split_once("] ").context("no `] ` after the name")?;
    let (checks, path) = rest.split_once(' ').context("no path after the checks")?;
    Ok(Mutation {
        id: id.to_owned(),
        group: group.to_owned(),
        checks: checks.split('+').map(parse_check).collect::<Result<_>>()?,
        path: path.to_owned(),
        find: String::new(),
        replace: String::new(),
    })
}

fn parse_check(text: &str) -> Result<Check> {
    let (level, argument) = match text.split_once(':') {
        Some((level, argument)) => (level, Some(argument.to_owned())),
        None => (text, None),
    };
    let level = Level::from_str(level, false).map_err(|_| anyhow!("unknown level {level:?}"))?;
    ensure!(level != Level::Unit || argument.is_some(), "the unit level requires a package");
    Ok(Check { level, argument })
}

fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# A comment.
[first] unit:sluice-core+netns:reply a/b.rs
- one {
-     two
+ three

[second] packet c.rs
- four
";

    #[test]
    fn every_mutation_fits_the_file_that_it_changes() {
        let mutations = all().expect("the lists parse");
        assert!(mutations.len() >= 60, "{}", mutations.len());
        assert_eq!(misfits(&mutations), Vec::<String>::new());
    }

    #[test]
    fn list_has_checks_and_text_of_several_lines() {
        let mutations = parse("group", LIST).expect("the list parses");
        let [first, second] = mutations.as_slice() else { panic!("{mutations:?}") };
        let checks: Vec<String> = first.checks.iter().map(Check::to_string).collect();
        assert_eq!(checks, ["unit:sluice-core", "netns:reply"]);
        assert_eq!(
            (
                first.group.as_str(),
                first.path.as_str(),
                first.find.as_str(),
                first.replace.as_str()
            ),
            ("group", "a/b.rs", "one {\n    two", "three")
        );
        assert_eq!((second.find.as_str(), second.replace.as_str()), ("four", ""));
    }

    #[test]
    fn malformed_list_is_an_error() {
        for text in [
            "- text before a mutation\n",
            "[id] unit:p\n- no path\n",
            "[id] unit a.rs\n- no package\n",
            "[id] cluster a.rs\n- unknown level\n",
            "[id] packet a.rs\n+ nothing to replace\n",
            "[id] packet a.rs\n- a\n+ b\n- c\n",
            "[id] packet a.rs\nno prefix\n",
        ] {
            assert!(parse("group", text).is_err(), "{text}");
        }
    }

    #[test]
    fn text_to_replace_must_occur_once() {
        let mutations = parse("group", "[id] packet a.rs\n- x\n+ y\n").expect("the list parses");
        let mutation = mutations.first().expect("one mutation");
        assert_eq!(mutation.apply("a x b").expect("occurs once"), "a y b");
        assert!(mutation.apply("a b").is_err());
        assert!(mutation.apply("x x").is_err());
    }

    #[test]
    fn hash_changes_with_mutation_and_file() {
        let mutations = parse("group", LIST).expect("the list parses");
        let [first, _] = mutations.as_slice() else { panic!("{mutations:?}") };
        let other = Mutation { replace: "other".to_owned(), ..first.clone() };
        assert_eq!(first.hash("text"), first.hash("text"));
        assert_ne!(first.hash("text"), first.hash("changed text"));
        assert_ne!(first.hash("text"), other.hash("text"));
    }
}
