//! A directory of YAML manifests as a cluster: all `*.yaml` and `*.yml` files, with several
//! documents and Lists; other kinds are ignored.
//!
//! After a change the whole directory is read again, and its content becomes one `Replace` per kind.
//! A file that is not valid keeps its last valid content; the error names file and document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;
use serde_yaml::Value;
use sluice_core::model::{Change, Object};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::convert::{self, ConvertError};
use crate::dir_watcher::{DirWatcher, DirWatcherError};

/// Interval of re-reads without a notification, for file systems that send none.
const REREAD: Duration = Duration::from_secs(30);

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The directory cannot be listed.
    #[error("--source: list {dir}")]
    List {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be watched.
    #[error("--source")]
    Watch(#[from] DirWatcherError),
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A document is not valid.
    #[error("document {number}: {source}")]
    Document {
        /// Number of the document, from 1.
        number: usize,
        /// The cause.
        #[source]
        source: DocumentError,
    },
}

/// A document that is not valid.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The text is not YAML.
    #[error(transparent)]
    Yaml(#[from] serde_yaml::Error),
    /// The document, or an item of an untyped List, has no `kind`.
    #[error("no kind")]
    NoKind,
    /// The object is not valid.
    #[error(transparent)]
    Object(#[from] ConvertError),
}

/// Last valid content of each file.
#[derive(Debug, Default)]
struct Files(BTreeMap<PathBuf, Vec<Object>>);

impl Files {
    /// Reads every manifest of `dir`; a file that is not valid keeps its last valid content.
    fn read(&mut self, dir: &Path) -> Result<(), FolderError> {
        let present =
            manifests(dir).map_err(|source| FolderError::List { dir: dir.to_owned(), source })?;
        self.0.retain(|path, _| present.contains(path));
        for path in present {
            match fs::read(&path).map_err(ManifestError::from).and_then(|text| parse(&text)) {
                Ok(objects) => {
                    self.0.insert(path, objects);
                }
                Err(e) => {
                    tracing::warn!(file = %path.display(), error = %e, "manifest is not valid, its last valid content stays in force");
                }
            }
        }
        Ok(())
    }

    /// All objects, one list per kind.
    fn changes(&self) -> Vec<Change> {
        Change::lists(self.0.values().flatten())
    }
}

/// Reads `dir` and starts to watch it; its content is sent to `events`, at once and after each
/// change.
///
/// # Errors
/// The directory cannot be listed or watched.
pub fn spawn<E: Send + 'static>(
    dir: PathBuf,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
) -> Result<(), FolderError> {
    let watcher = DirWatcher::new([dir.as_path()])?;
    let mut files = Files::default();
    files.read(&dir)?;
    tokio::spawn(async move {
        loop {
            for change in files.changes() {
                if events.send(event(change)).await.is_err() {
                    // The agent is stopping.
                    return;
                }
            }
            let _ = timeout(REREAD, watcher.changed()).await;
            if let Err(e) = files.read(&dir) {
                tracing::warn!(error = %sluice_bpf::error_chain(&e), "manifests not read, retrying; known objects stay in force");
            }
        }
    });
    Ok(())
}

/// The manifests of a directory; hidden files, such as those of editors, are left out.
fn manifests(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if yaml && !hidden {
            manifests.push(path);
        }
    }
    Ok(manifests)
}

/// Parses the objects of one manifest.
///
/// # Errors
/// A document is not YAML, has no kind, or is not a valid object of its kind.
pub fn parse(text: &[u8]) -> Result<Vec<Object>, ManifestError> {
    let mut objects = Vec::new();
    parse_with(text, &mut |kind, value| {
        if let Some(kind) = convert::kind_from_name(kind) {
            objects.push(convert::object(kind, value)?);
        }
        Ok(())
    })?;
    Ok(objects)
}

/// Gives kind and content of each object of a manifest to `each`.
///
/// # Errors
/// As [`parse`], and those of `each`.
pub fn parse_with(
    text: &[u8],
    each: &mut dyn FnMut(&str, Value) -> Result<(), ConvertError>,
) -> Result<(), ManifestError> {
    for (index, document) in serde_yaml::Deserializer::from_slice(text).enumerate() {
        Value::deserialize(document)
            .map_err(DocumentError::from)
            .and_then(|value| collect(value, None, each))
            .map_err(|source| ManifestError::Document { number: index + 1, source })?;
    }
    Ok(())
}

/// Gives the object, or the items of the List, to `each`. Items of a typed list, such as
/// `ServiceList`, may lack a kind.
fn collect(
    value: Value,
    item_kind: Option<&str>,
    each: &mut dyn FnMut(&str, Value) -> Result<(), ConvertError>,
) -> Result<(), DocumentError> {
    if value.is_null() {
        return Ok(());
    }
    let kind = value.get("kind").and_then(Value::as_str).or(item_kind);
    let kind = kind.ok_or(DocumentError::NoKind)?.to_owned();
    if let Some(item_kind) = kind.strip_suffix("List") {
        let item_kind = Some(item_kind).filter(|kind| !kind.is_empty());
        let items = value.get("items").and_then(Value::as_sequence).cloned().unwrap_or_default();
        return items.into_iter().try_for_each(|item| collect(item, item_kind, each));
    }
    Ok(each(&kind, value)?)
}

#[cfg(test)]
mod tests {
    use sluice_core::model::Kind;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);
    const NODE: &str = "{kind: Node, apiVersion: v1, metadata: {name: n1}}\n";

    fn names(files: &Files, kind: Kind) -> Vec<String> {
        files
            .changes()
            .into_iter()
            .find_map(|c| match c {
                Change::Replace(k, objects) if k == kind => {
                    Some(objects.iter().map(|o| o.name().to_string()).collect())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    #[test]
    fn documents_and_lists_are_read_and_other_kinds_ignored() {
        let text = b"\
---
kind: Node
metadata: {name: a}
---
# empty document
---
kind: List
items:
- {kind: Service, metadata: {name: s, namespace: x}}
- {kind: ConfigMap, metadata: {name: c}}
- {kind: ConfigMapList, items: [{metadata: {name: d}}]}
---
kind: EndpointSliceList
items:
- {metadata: {name: e}}
---
kind: PodList
items: null
";
        let objects = parse(text).unwrap();
        let got: Vec<_> = objects.iter().map(|o| format!("{:?} {}", o.kind(), o.name())).collect();
        assert_eq!(got, ["Node a", "Service x/s", "EndpointSlice default/e"]);
    }

    #[test]
    fn error_names_the_document() {
        for (text, want) in [
            (format!("{NODE}---\nkind: [\n"), "document 2:"),
            (format!("{NODE}---\n{{metadata: {{name: x}}}}\n"), "document 2: no kind"),
            ("{kind: List, items: [{metadata: {name: x}}]}".to_owned(), "document 1: no kind"),
            ("{kind: Node, metadata: {}}".to_owned(), "document 1: Node without metadata.name"),
            ("{kind: Node, metadata: {name: a}, spec: 3}".to_owned(), "document 1: Node: "),
            ("\u{0}".to_owned(), "document 1:"),
        ] {
            let e = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with(want), "{e}");
        }
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn file_that_becomes_invalid_keeps_its_last_valid_content() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yml"));
        fs::write(&a, NODE).unwrap();
        fs::write(&b, "{kind: Service, metadata: {name: s}}").unwrap();
        let mut files = Files::default();
        files.read(dir.path()).unwrap();
        fs::write(&a, "kind: [").unwrap();
        files.read(dir.path()).unwrap();
        assert_eq!(names(&files, Kind::Node), ["n1"]);
        assert_eq!(names(&files, Kind::Service), ["default/s"]);
        fs::remove_file(&a).unwrap();
        files.read(dir.path()).unwrap();
        assert_eq!(names(&files, Kind::Node), Vec::<String>::new());
    }

    #[test]
    fn hidden_files_and_other_extensions_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".a.yaml", "b.txt", "c.yaml~", "yaml"] {
            fs::write(dir.path().join(name), NODE).unwrap();
        }
        assert_eq!(manifests(dir.path()).unwrap(), Vec::<PathBuf>::new());
        let e = Files::default().read(&dir.path().join("missing")).unwrap_err();
        assert!(e.to_string().contains("missing"), "{e}");
    }

    #[tokio::test]
    async fn content_is_sent_at_the_start_and_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut rx) = mpsc::channel(64);
        spawn(dir.path().to_owned(), tx, |c: Change| c).unwrap();
        for kind in Kind::ALL {
            match timeout(WAIT, rx.recv()).await.unwrap() {
                Some(Change::Replace(k, objects)) => assert_eq!((k, objects.len()), (kind, 0)),
                other => panic!("{other:?}"),
            }
        }
        fs::write(dir.path().join("n.yaml"), NODE).unwrap();
        let seen = timeout(WAIT, async {
            loop {
                if let Some(Change::Replace(Kind::Node, objects)) = rx.recv().await
                    && objects.len() == 1
                {
                    return;
                }
            }
        });
        seen.await.unwrap();
    }
}
