//! A folder of YAML manifests as a cluster: every `*.yaml` and `*.yml` in it, several documents
//! and Lists allowed, other kinds ignored.
//!
//! After each change the whole folder is read again and becomes one `Replace` per kind. A file
//! that cannot be read keeps what it said last; its name and the number of the document are
//! logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sluice_core::model::{Change, Kind, Object};
use tokio::sync::mpsc;

use super::api_types;
use super::convert;
use crate::dir_watcher::{DirWatcher, DirWatcherError};

/// The folder is also read by the clock, for file systems that tell nothing.
const REREAD: Duration = Duration::from_secs(30);

/// The folder cannot serve as a source.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be listed.
    #[error("--source: list {folder}")]
    List {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be watched.
    #[error("--source")]
    Watch(#[from] DirWatcherError),
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// A document makes no sense.
    #[error("document {number}: {problem}")]
    Document {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
}

/// What the folder said last, by file.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<PathBuf, Vec<Object>>);

/// Starts following `folder`.
pub fn spawn<E: Send + 'static>(
    folder: PathBuf,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
) -> Result<(), FolderError> {
    let follow = DirWatcher::new([folder.as_path()])?;
    let mut files = Files::default();
    read_folder(&folder, &mut files)?;
    tokio::spawn(async move {
        loop {
            for change in files.changes() {
                if events.send(event(change)).await.is_err() {
                    return;
                }
            }
            let _ = tokio::time::timeout(REREAD, follow.changed()).await;
            if let Err(e) = read_folder(&folder, &mut files) {
                tracing::warn!(error = %e, "going on with what is known");
            }
        }
    });
    Ok(())
}

/// Reads every manifest of `folder` into `files`; a bad file keeps its last good content.
///
/// # Errors
/// When the folder cannot be listed.
pub fn read_folder(folder: &Path, files: &mut Files) -> Result<(), FolderError> {
    let error = |source| FolderError::List { folder: folder.to_owned(), source };
    let mut present = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if yaml && !hidden {
            present.push(path);
        }
    }
    files.0.retain(|path, _| present.contains(path));
    for path in present {
        match std::fs::read_to_string(&path).map_err(ManifestError::from).and_then(|t| parse(&t)) {
            Ok(objects) => {
                files.0.insert(path, objects);
            }
            Err(e) => {
                tracing::warn!(file = %path.display(), error = %e, "manifest not used, its last good content stays");
            }
        }
    }
    Ok(())
}

impl Files {
    /// Everything in the folder, one list per kind.
    pub fn changes(&self) -> Vec<Change> {
        Kind::ALL
            .into_iter()
            .map(|kind| {
                let objects =
                    self.0.values().flatten().filter(|o| o.kind() == kind).cloned().collect();
                Change::Replace(kind, objects)
            })
            .collect()
    }
}

/// The objects of one file.
fn parse(text: &str) -> Result<Vec<Object>, ManifestError> {
    let mut objects = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let fail = |problem: String| ManifestError::Document { number: index + 1, problem };
        let value = serde_yaml::Value::deserialize(document).map_err(|e| fail(e.to_string()))?;
        collect(value, None, &mut objects).map_err(fail)?;
    }
    Ok(objects)
}

fn collect(
    value: serde_yaml::Value,
    kind_of_list: Option<&str>,
    objects: &mut Vec<Object>,
) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let kind = value.get("kind").and_then(|k| k.as_str()).or(kind_of_list).map(str::to_owned);
    let Some(kind) = kind else { return Err("it has no kind".to_owned()) };
    if let Some(item_kind) = kind.strip_suffix("List") {
        let item_kind = (!item_kind.is_empty()).then_some(item_kind);
        let items = value.get("items").and_then(|i| i.as_sequence()).cloned().unwrap_or_default();
        for item in items {
            collect(item, item_kind, objects)?;
        }
        return Ok(());
    }
    let converted = match kind.as_str() {
        "Node" => convert::node(typed::<api_types::Node>(&kind, value)?),
        "Namespace" => convert::namespace(typed::<api_types::Namespace>(&kind, value)?),
        "Pod" => convert::pod(typed::<api_types::Pod>(&kind, value)?),
        "Service" => convert::service(typed::<api_types::Service>(&kind, value)?),
        "EndpointSlice" => {
            convert::endpoint_slice(typed::<api_types::EndpointSlice>(&kind, value)?)
        }
        _ => return Ok(()),
    };
    objects.push(converted.map_err(|ignored| ignored.to_string())?);
    Ok(())
}

fn typed<T: serde::de::DeserializeOwned>(kind: &str, v: serde_yaml::Value) -> Result<T, String> {
    serde_yaml::from_value(v).map_err(|e| format!("{kind}: {e}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
    fn several_documents_and_lists() {
        let text = "\
---
kind: Node
metadata: {name: a}
---
# nothing here
---
kind: List
items:
- {kind: Service, metadata: {name: s, namespace: x}}
- {kind: ConfigMap, metadata: {name: c}}
---
kind: EndpointSliceList
items:
- {metadata: {name: e}}
";
        let objects = parse(text).unwrap();
        let got: Vec<_> = objects.iter().map(|o| format!("{:?} {}", o.kind(), o.name())).collect();
        assert_eq!(got, ["Node a", "Service x/s", "EndpointSlice default/e"]);
    }

    #[test]
    fn the_bad_document_is_numbered() {
        for (text, want) in [
            (format!("{NODE}---\nkind: [\n"), "document 2:"),
            (format!("{NODE}---\n{{metadata: {{name: x}}}}\n"), "document 2: it has no kind"),
            ("{kind: Node, metadata: {}}".to_owned(), "document 1: Node without metadata.name"),
            ("{kind: Node, metadata: {name: a}, spec: 3}".to_owned(), "document 1: Node: "),
        ] {
            let e = parse(&text).unwrap_err().to_string();
            assert!(e.starts_with(want), "{e}");
        }
    }

    #[test]
    fn a_file_that_breaks_keeps_its_last_good_content() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yml"));
        fs::write(&a, NODE).unwrap();
        fs::write(&b, "{kind: Service, metadata: {name: s}}").unwrap();
        fs::write(dir.path().join("c.txt"), "kind: [").unwrap();
        let mut files = Files::default();
        read_folder(dir.path(), &mut files).unwrap();
        fs::write(&a, "kind: [").unwrap();
        read_folder(dir.path(), &mut files).unwrap();
        assert_eq!(names(&files, Kind::Node), ["n1"]);
        assert_eq!(names(&files, Kind::Service), ["default/s"]);
        fs::remove_file(&a).unwrap();
        read_folder(dir.path(), &mut files).unwrap();
        assert_eq!(names(&files, Kind::Node), Vec::<String>::new());
    }

    #[tokio::test]
    async fn every_kind_is_told_at_the_start_and_again_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut rx) = mpsc::channel(64);
        spawn(dir.path().to_owned(), tx, |c: Change| c).unwrap();
        for _ in Kind::ALL {
            assert!(matches!(rx.recv().await, Some(Change::Replace(_, o)) if o.is_empty()));
        }
        fs::write(dir.path().join("n.yaml"), NODE).unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(5), async {
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
