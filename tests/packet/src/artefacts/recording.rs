//! The last runs of a datapath, as text and as a packet capture.

use std::collections::VecDeque;
use std::fmt::Write as _;

use sluice_abi::Counter;

use crate::{Counters, hex};

/// Runs that are kept: a failure is explained by the last packets, and tests of random packets have many.
const KEPT: usize = 200;
/// Longest packet of a capture.
const SNAP_LEN: u32 = 262_144;
/// Frames with an Ethernet header (`LINKTYPE_ETHERNET`).
const LINK_TYPE_ETHERNET: u32 = 1;

/// One run of a program over a frame.
#[derive(Debug, Default)]
pub(crate) struct RecordedRun {
    pub program: String,
    /// Interface index of the hook.
    pub ifindex: u32,
    /// Interface index of the device that has received the frame; 0 for none.
    pub received_by: u32,
    /// Payload bytes per segment; 0 if the kernel does not segment the frame.
    pub gso_size: u32,
    pub frame: Vec<u8>,
    pub action: String,
    pub data: Vec<u8>,
    pub counters: Counters,
}

/// The last runs, the oldest first. Numbers of runs begin with 1.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    runs: VecDeque<RecordedRun>,
    dropped: usize,
}

impl Recording {
    pub(crate) fn push(&mut self, run: RecordedRun) {
        if self.runs.len() == KEPT {
            self.runs.pop_front();
            self.dropped += 1;
        }
        self.runs.push_back(run);
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &RecordedRun)> {
        (self.dropped + 1..).zip(&self.runs)
    }

    /// One paragraph per run.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.dropped > 0 {
            let _ = writeln!(text, "{} earlier runs are not kept\n", self.dropped);
        }
        for (number, run) in self.numbered() {
            let _ = write!(text, "run {number}: {}, device {}", run.program, run.ifindex);
            for (what, value) in [("received by", run.received_by), ("gso", run.gso_size)] {
                if value != 0 {
                    let _ = write!(text, ", {what} {value}");
                }
            }
            let _ = writeln!(text, "\n  in        {}", hex::encode(&run.frame));
            let _ = writeln!(text, "  action    {}", run.action);
            let is_same = run.data == run.frame;
            let out = if is_same { "unchanged".to_owned() } else { hex::encode(&run.data) };
            let _ = writeln!(text, "  out       {out}");
            let count = |(label, Counter { packets, bytes }): (&&str, &Counter)| {
                format!("{label} ({packets} packets, {bytes} bytes)")
            };
            let counters: Vec<String> = run.counters.iter().map(count).collect();
            let _ = writeln!(text, "  counters  {}\n", counters.join(", "));
        }
        text
    }

    /// A pcap file. The time of a frame is the number of its run in seconds; a frame that came out is one
    /// microsecond later than the one that went in.
    pub(super) fn pcap(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let words = |file: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| file.extend(word.to_ne_bytes()));
        };
        words(&mut file, &[0xa1b2_c3d4]);
        // Version 2.4.
        [2u16, 4].iter().for_each(|number| file.extend(number.to_ne_bytes()));
        words(&mut file, &[0, 0, SNAP_LEN, LINK_TYPE_ETHERNET]);
        for (number, run) in self.numbered() {
            let is_dropped = run.action == "Drop";
            for (micros, frame) in [(0, Some(&run.frame)), (1, (!is_dropped).then_some(&run.data))]
            {
                let Some(frame) = frame else { continue };
                let len = frame.len() as u32;
                let kept = len.min(SNAP_LEN);
                words(&mut file, &[number as u32, micros, kept, len]);
                file.extend(&frame[..kept as usize]);
            }
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(frame: u8, action: &str) -> RecordedRun {
        let (frame, data) = (vec![frame; 3], vec![7; 2]);
        let program = "from_pod".to_owned();
        RecordedRun { program, frame, data, action: action.to_owned(), ..RecordedRun::default() }
    }

    #[test]
    fn the_last_runs_are_kept_with_their_numbers() {
        let mut recording = Recording::default();
        for n in 0..KEPT + 2 {
            recording.push(recorded(n as u8, "Next"));
        }
        let text = recording.text();
        assert!(text.starts_with("2 earlier runs are not kept\n\nrun 3: from_pod"), "{text}");
        assert!(text.contains(&format!("run {}: ", KEPT + 2)));
        assert_eq!(text.matches("run ").count(), KEPT);
    }

    #[test]
    fn a_capture_has_what_went_in_and_what_was_not_dropped() {
        let mut recording = Recording::default();
        recording.push(recorded(1, "Redirect"));
        recording.push(recorded(2, "Drop"));
        let file = recording.pcap();
        assert_eq!(file[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
        assert_eq!(file[20..24], 1u32.to_ne_bytes());
        let mut rest = &file[24..];
        for (second, micros, frame) in [(1, 0, &[1, 1, 1][..]), (1, 1, &[7, 7]), (2, 0, &[2, 2, 2])]
        {
            let len = frame.len() as u32;
            let header = [second, micros, len, len].map(u32::to_ne_bytes).concat();
            assert_eq!(rest[..16], header[..]);
            assert_eq!(&rest[16..16 + frame.len()], frame);
            rest = &rest[16 + frame.len()..];
        }
        assert_eq!(rest, []);
    }
}
