//! The kept frames of `corpus/*.hex`: unusual, truncated and contradictory headers, and frames that have
//! failed a test.
//!
//! ```text
//! # UDP of 2,920 bytes to a Service: the first line of a frame names it
//! 0200000001ee 02000000010a 0800
//! 4500 0b84 1234 0000 4011 46a6 0af4 010a 0a60 0032
//! 9c54 0035 0b70 35f5 00*2920      # a byte that occurs 2,920 times
//! ```
//! Empty lines separate frames. The pod of the programs is `CLIENT` of `topology.rs`; every frame is run at
//! every hook.

use std::fs;
use std::path::Path;

use crate::hex;

/// Length of an Ethernet header: the least length of a frame.
const ETHERNET: usize = 14;

/// A kept frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of the file, and what is unusual about the frame.
    pub name: String,
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

/// All frames, by file.
///
/// # Panics
/// If a file cannot be read or has another format.
pub fn frames() -> Vec<Frame> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |path: &Path| {
        let fail = |e: String| -> Vec<Frame> { panic!("{}: {e}", path.display()) };
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut frames = parse(&text).unwrap_or_else(fail);
        let file = path.file_stem().unwrap_or_default().display();
        for frame in &mut frames {
            frame.name = format!("{file}: {}", frame.name);
        }
        frames
    };
    files.iter().flat_map(|path| read(path)).collect()
}

/// The frames of a file. A paragraph of comments only is about the file.
fn parse(text: &str) -> Result<Vec<Frame>, String> {
    let mut frames = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut bytes = Vec::new();
        for line in paragraph.lines() {
            let digits = line.split('#').next().unwrap_or_default();
            for word in digits.split_whitespace() {
                bytes.extend(repeated(word).ok_or_else(|| format!("{word:?} is not hexadecimal"))?);
            }
        }
        if bytes.is_empty() {
            continue;
        }
        let name = paragraph.trim_start().lines().next().and_then(|line| line.strip_prefix("# "));
        let name =
            name.ok_or_else(|| format!("no name before {}", hex::encode(&bytes)))?.to_owned();
        if bytes.len() < ETHERNET {
            return Err(format!("{name}: shorter than an Ethernet header"));
        }
        frames.push(Frame { name, bytes });
    }
    Ok(frames)
}

/// The bytes of `0af4` or `00*2920`.
fn repeated(word: &str) -> Option<Vec<u8>> {
    let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
    Some(hex::decode(digits)?.repeat(times.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "0200000001ee 02000000010a 0800";

    #[test]
    fn frames_have_names_comments_and_repeated_bytes() {
        let text = format!("# A file.\n\n# one\n{HEADER}\n\n# two\n{HEADER} # IP\n4500 00*3\n");
        let header = hex::decode(&HEADER.replace(' ', "")).unwrap();
        let two = [&header[..], &[0x45, 0, 0, 0, 0]].concat();
        let frame = |name: &str, bytes| Frame { name: name.to_owned(), bytes };
        assert_eq!(parse(&text), Ok(vec![frame("one", header), frame("two", two)]));
    }

    #[test]
    fn frame_without_name_or_with_other_text_is_an_error() {
        for text in [HEADER, "# short\n0200", "# odd\n020", "# text\n0x00", "# times\n00*x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_of_the_corpus_have_frames_with_different_names() {
        let frames = frames();
        assert!(frames.len() > 200, "{} frames", frames.len());
        let mut names: Vec<&str> = frames.iter().map(|frame| frame.name.as_str()).collect();
        names.sort_unstable();
        let repeated = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(repeated, None);
    }
}
