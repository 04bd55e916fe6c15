//! Phrases that do not occur in technical English.

use anyhow::Result;

use super::Finding;
use super::tree::Tree;

/// Kinds of files with prose.
const EXTENSIONS: [&str; 4] = ["md", "rs", "toml", "yaml"];

/// Phrases, and what to write instead.
const PHRASES: [(&str, &str); 20] = [
    ("anybody", "the role: the agent, the runtime, another program"),
    ("as people", "the format"),
    ("growing patience", "exponential backoff"),
    ("is gone", "was removed, ended"),
    ("is no JSON", "is not valid JSON"),
    ("looked at by", "read by, polled by"),
    ("looks after", "the action"),
    ("must not meet", "must not be equal to"),
    ("nobody", "no program, no caller"),
    ("signs of life", "progress"),
    ("somebody", "another program, the runtime"),
    ("stands in", "is in"),
    ("stands there", "exists"),
    ("stranger", "external client"),
    ("strangers", "external clients"),
    ("tells the", "reports to, returns"),
    ("the way it", "how, the path"),
    ("wander off", "leave, are routed elsewhere"),
    ("well again", "condition cleared"),
    ("what is where", "the subject"),
];

/// The files that contain the phrases as data.
const EXEMPT: [&str; 1] = ["xtask/src/tidy/prose.rs"];

/// No file contains one of [`PHRASES`], as whole words, in any case.
pub fn words(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for extension in EXTENSIONS {
        for (path, text) in tree.with_extension("", extension) {
            if EXEMPT.contains(&path) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let line = line.to_lowercase();
                for (phrase, instead) in PHRASES {
                    if contains(&line, &phrase.to_lowercase()) {
                        let message = format!("\"{phrase}\"; write: {instead}");
                        findings.push(Finding::new(path, number + 1, message));
                    }
                }
            }
        }
    }
    Ok(findings)
}

fn contains(line: &str, phrase: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(phrase).any(|(start, _)| {
        let before = line.get(..start).and_then(|text| text.chars().next_back());
        let after = line.get(start + phrase.len()..).and_then(|text| text.chars().next());
        !is_word(before) && !is_word(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrase_is_found_as_whole_words_in_any_case() {
        let tree = Tree::of(&[
            ("a.rs", "// Fine.\n// Nobody reads it."),
            ("b.md", "The nobody_group is a name."),
            ("c.txt", "nobody"),
        ]);
        let findings = words(&tree).expect("checked");
        let expected = Finding::new("a.rs", 2, "\"nobody\"; write: no program, no caller");
        assert_eq!(findings, [expected]);
    }
}
