//! What a command must have done.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::process::Finished;

/// Conditions on a finished command; absent ones are not checked, except the exit code.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Exit code.
    #[serde(default)]
    pub exit: i32,
    /// The whole standard output, trimmed.
    pub stdout: Option<String>,
    /// A substring of standard output.
    pub contains: Option<String>,
    /// A string that neither output contains.
    pub lacks: Option<String>,
    /// The set of distinct words of standard output.
    pub words: Option<Vec<String>>,
    /// The number of distinct words of standard output.
    pub distinct: Option<usize>,
    /// The number of words of standard output.
    pub total: Option<usize>,
    /// The least number of occurrences of each distinct word.
    pub each: Option<usize>,
    /// The last line of standard output.
    pub last: Option<String>,
}

impl Expect {
    /// Checks every condition.
    ///
    /// # Errors
    /// The first condition that does not hold, with the output.
    pub fn check(&self, finished: &Finished) -> Result<(), String> {
        let Finished { code, stdout, stderr } = finished;
        let fail = |what: String| Err(format!("{what}; stdout: {stdout:?} stderr: {stderr:?}"));
        if *code != Some(self.exit) {
            return fail(format!("exit code {code:?}, expected {}", self.exit));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in stdout.split_whitespace() {
            *counts.entry(word).or_default() += 1;
        }
        if self.stdout.as_deref().is_some_and(|s| s.trim() != stdout) {
            return fail(format!("output is not {:?}", self.stdout));
        }
        if self.contains.as_deref().is_some_and(|s| !stdout.contains(s)) {
            return fail(format!("output lacks {:?}", self.contains));
        }
        if self.lacks.as_deref().is_some_and(|s| stdout.contains(s) || stderr.contains(s)) {
            return fail(format!("output contains {:?}", self.lacks));
        }
        if let Some(words) = &self.words {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.sort_unstable();
            if !words.iter().eq(counts.keys()) {
                return fail(format!("words are {counts:?}, expected {words:?}"));
            }
        }
        if self.distinct.is_some_and(|n| n != counts.len()) {
            return fail(format!("words are {counts:?}, expected {:?} distinct", self.distinct));
        }
        if self.total.is_some_and(|n| n != counts.values().sum::<usize>()) {
            return fail(format!("words are {counts:?}, expected {:?} in total", self.total));
        }
        if let Some(least) = self.each
            && let Some((word, n)) = counts.iter().find(|(_, n)| **n < least)
        {
            return fail(format!("{word} occurs {n} times, expected at least {least}"));
        }
        if self.last.as_deref().is_some_and(|l| stdout.lines().last().map(str::trim) != Some(l)) {
            return fail(format!("last line is not {:?}", self.last));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expect: &str, code: i32, stdout: &str) -> Result<(), String> {
        let expect: Expect = serde_yaml::from_str(expect).unwrap();
        let stdout = stdout.to_owned();
        expect.check(&Finished { code: Some(code), stdout, stderr: String::new() })
    }

    #[test]
    fn each_condition_holds_and_fails() {
        for (expect, code, good, bad) in [
            ("{exit: 7}", 7, "", None),
            ("{stdout: a b}", 0, "a b", Some("a")),
            ("{contains: b}", 0, "abc", Some("ac")),
            ("{lacks: FAILED}", 0, "ok", Some("ok FAILED")),
            ("{words: [b, a]}", 0, "a b a", Some("a b c")),
            ("{words: [a]}", 0, "a a", Some("")),
            ("{distinct: 2}", 0, "a b a", Some("a")),
            ("{total: 3}", 0, "a b a", Some("a b")),
            ("{each: 2}", 0, "a a b b", Some("a a b")),
            ("{last: b}", 0, "a\nb", Some("b\na")),
        ] {
            check(expect, code, good).unwrap();
            check(expect, code + 1, good).unwrap_err();
            if let Some(bad) = bad {
                check(expect, code, bad).unwrap_err();
            }
        }
        assert!(serde_yaml::from_str::<Expect>("{exitcode: 0}").is_err());
    }
}
