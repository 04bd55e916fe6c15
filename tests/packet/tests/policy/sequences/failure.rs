//! A sequence that fails: made smaller, and written as YAML.

use std::time::{Duration, Instant};

use packet_tests::Datapath;
use sluice_core::generate::PolicySequence;
use sluice_core::oracle::NewFlow;

use super::super::world::Probe;
use super::replay;

/// Time after which no smaller sequence is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is wrong.
#[derive(Debug)]
pub struct Failure {
    /// The flow with another verdict than expected; `None` if it is the rows that are wrong.
    probe: Option<Probe>,
    text: String,
}

impl Failure {
    /// A flow has another verdict than expected.
    pub fn of_flow(probe: Probe, text: String) -> Failure {
        Failure { probe: Some(probe), text }
    }

    /// The maps have other rows than expected.
    pub fn of_rows(text: String) -> Failure {
        Failure { probe: None, text }
    }

    /// The smallest part of the sequence that fails, as YAML. Of the flows, only that of this failure is tried, as
    /// long as it fails by itself: then packets do not depend on what is removed.
    pub fn smallest(&self, sequence: &PolicySequence) -> String {
        // The maps of the failure stay as they are, for the artefacts.
        let datapath = Datapath::node();
        // Wrong rows do not say which flow has another verdict.
        let is_same = |found: Result<(), Failure>| {
            found.is_err_and(|failure| failure.probe.is_some() == self.probe.is_some())
        };
        let only = [self.probe, None];
        let Some(only) = only.into_iter().find(|o| is_same(replay(&datapath, sequence, *o))) else {
            return sequence.manifests(&format!("does not fail when it is repeated\n{self}"));
        };
        let end = Instant::now() + PATIENCE;
        let fails =
            |part: &PolicySequence| Instant::now() < end && is_same(replay(&datapath, part, only));
        let smallest = sequence.shrink(fails);
        let failure = replay(&datapath, &smallest, only).err().unwrap_or_else(|| Failure {
            probe: only,
            text: format!("does not fail each time\n{self}"),
        });
        let seconds = PATIENCE.as_secs();
        let is_complete = Instant::now() < end;
        let end =
            if is_complete { String::new() } else { format!("\nnot smaller after {seconds} s") };
        smallest.manifests(&format!("{failure}{end}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(Probe { hook, flow }) = &self.probe {
            let NewFlow { source, destination, protocol, port, .. } = flow;
            writeln!(
                f,
                "protocol {protocol}, {source} > {destination} port {port}, from {hook:?}"
            )?;
        }
        f.write_str(&self.text)
    }
}
