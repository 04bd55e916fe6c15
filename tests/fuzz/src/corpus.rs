//! The kept corpus: small inputs in text files, `corpus/<target>/*`.
//!
//! A file is the input itself. A file `*.hex` holds the bytes of a binary input as pairs of
//! hexadecimal digits; `#` starts a comment.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path of the file.
    pub path: PathBuf,
    /// The input.
    pub bytes: Vec<u8>,
}

/// Folder with one folder per target.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The entries of a target, by name.
///
/// # Errors
/// A file cannot be read, or a `.hex` file is not valid (`InvalidData`).
pub fn entries(target: &str) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder().join(target))? {
        let path = entry?.path();
        let mut bytes = fs::read(&path)?;
        if path.extension().is_some_and(|extension| extension == "hex") {
            bytes = decode(&bytes).ok_or_else(|| {
                let message = format!("{} is not hexadecimal", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
        }
        entries.push(Entry { path, bytes });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Writes the inputs of a target to files in `folder`, which libFuzzer reads.
///
/// # Errors
/// The corpus cannot be read, or a file cannot be written.
pub fn export(target: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in entries(target)? {
        fs::write(folder.join(entry.path.file_name().unwrap_or_default()), entry.bytes)?;
    }
    Ok(())
}

/// Decodes pairs of hexadecimal digits; white space and comments are skipped.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(text).ok()?;
    let without_comments = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let digits: Vec<u8> = without_comments
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_has_comments_and_whole_bytes() {
        assert_eq!(decode(b"# all\n00 fF7e # three\n\n01\n"), Some(vec![0, 0xff, 0x7e, 1]));
        assert_eq!(decode(b"0 1 2"), None);
        assert_eq!(decode(b"0x"), None);
    }
}
