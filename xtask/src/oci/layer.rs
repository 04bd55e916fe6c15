//! Tars without times and owners, for layers and for the archive.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// The tar of one layer, written entry by entry. Parent directories are added with mode 0755.
pub struct Layer {
    tar: tar::Builder<BufWriter<File>>,
    directories: BTreeSet<String>,
}

impl Layer {
    /// Creates the file `path`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { tar: tar::Builder::new(BufWriter::new(file)), directories: BTreeSet::new() })
    }

    /// Adds a directory; `path` ends in a slash.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.parents(path.trim_end_matches('/'))?;
        self.directories.insert(path.to_owned());
        let mut header = header(tar::EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, path, std::io::empty())?)
    }

    /// Adds an executable file with the contents of `source`.
    ///
    /// # Errors
    /// When `source` cannot be read or the tar cannot be written.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        self.parents(path)?;
        let file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mut header = header(tar::EntryType::Regular, 0o755, file.metadata()?.len());
        Ok(self.tar.append_data(&mut header, path, BufReader::new(file))?)
    }

    /// Adds a file with mode 0644.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn file(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.parents(path)?;
        let mut header = header(tar::EntryType::Regular, 0o644, contents.len() as u64);
        Ok(self.tar.append_data(&mut header, path, contents)?)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, path, target)?)
    }

    /// Writes the end of the tar.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn finish(self) -> Result<()> {
        self.tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Engines choose the mode of directories that a layer does not contain.
    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..=end).unwrap_or_default();
            if !self.directories.contains(parent) {
                self.directories.insert(parent.to_owned());
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                self.tar.append_data(&mut header, parent, std::io::empty())?;
            }
        }
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
