//! Versions of the specification.

use std::fmt;

use serde_json::Value;

/// A version that Sluice implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses without `version`.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All versions, oldest first.
    pub const ALL: [Version; 4] =
        [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// The newest version.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The text in `cniVersion`.
    pub const fn text(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Parses the text in `cniVersion`; `None` for a version that Sluice does not implement.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|v| v.text() == text)
    }

    /// The version in which VERSION and errors are answered: that of the configuration, or the
    /// newest if `stdin` contains no supported one.
    pub fn of_answer(stdin: &str) -> Version {
        serde_json::from_str::<Value>(stdin)
            .ok()
            .and_then(|json| Version::parse(json.get("cniVersion")?.as_str()?))
            .unwrap_or(Version::NEWEST)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
