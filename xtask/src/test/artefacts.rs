//! The folder for files of failed tests, target/test-artefacts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::target;

const LISTED: usize = 20;

/// The folder, emptied at the start of a run.
pub struct Artefacts {
    folder: PathBuf,
}

impl Artefacts {
    /// Empties the folder.
    ///
    /// # Errors
    /// When it cannot be removed or created.
    pub fn clear() -> Result<Self> {
        let folder = target().join("test-artefacts");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Prints the files in the folder, if there are any.
    pub fn list(&self) {
        let mut files = Vec::new();
        collect(&self.folder, &mut files);
        if files.is_empty() {
            return;
        }
        files.sort();
        println!("\n{} files of failed tests in {}:", files.len(), self.folder.display());
        for file in files.iter().take(LISTED) {
            println!("    {}", file.strip_prefix(&self.folder).unwrap_or(file).display());
        }
        if files.len() > LISTED {
            println!("    ...");
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
