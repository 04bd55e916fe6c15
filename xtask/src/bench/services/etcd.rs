//! Objects written to a cluster's etcd as the API server stores them, in the way that restoring a backup
//! does: its watches deliver them like any others.
//!
//! Allocating 50,000 addresses one after the other would take the API server most of an hour (see
//! [`super::fill`]).

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::cluster::BenchCluster;
use crate::cache::target;

/// Operations of a transaction: etcd's limit (`--max-txn-ops`).
pub const OPERATIONS: usize = 128;
/// Folder of etcd's certificates on a control-plane node.
const PKI: &str = "/etc/kubernetes/pki";
/// etcd's JSON gateway.
const URL: &str = "https://127.0.0.1:2379/v3/kv/txn";

/// An object and its key.
pub struct Stored {
    /// Below `/registry/`.
    pub key: String,
    /// With its defaults, as the API server would store it.
    pub object: Value,
}

/// Writes at most [`OPERATIONS`] objects in one transaction, on the control-plane node.
///
/// # Errors
/// When one of them exists, or etcd does not answer.
pub fn write(cluster: &BenchCluster, objects: &[Stored]) -> Result<()> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("etcd-{:?}.json", cluster.network));
    fs::write(&path, serde_json::to_vec(&transaction(objects))?)?;
    let credentials = [
        ("--cacert", format!("{PKI}/etcd/ca.crt")),
        ("--cert", format!("{PKI}/apiserver-etcd-client.crt")),
        ("--key", format!("{PKI}/apiserver-etcd-client.key")),
    ];
    let mut words = vec!["curl", "--silent", "--show-error"];
    for (option, file) in &credentials {
        words.extend([option, file.as_str()]);
    }
    words.extend(["--data-binary", "@-", URL]);
    let answer = cluster.on_control_plane(&words, File::open(&path)?)?;
    check(&answer, objects)?;
    fs::remove_file(path)?;
    Ok(())
}

/// Requires that etcd has written all objects: it also answers a transaction without operations.
fn check(answer: &str, objects: &[Stored]) -> Result<()> {
    let answer: Value =
        serde_json::from_str(answer).with_context(|| format!("answer of etcd: {answer:?}"))?;
    let succeeded = answer["succeeded"] == true;
    ensure!(succeeded, "etcd has not written {}; one of them may exist: {answer}", names(objects));
    let written = answer["responses"].as_array().map_or(0, Vec::len);
    ensure!(written == objects.len(), "etcd has written {written} of {}", names(objects));
    Ok(())
}

/// The body of a transaction that writes all objects if none of them exists.
fn transaction(objects: &[Stored]) -> Value {
    let key = |stored: &Stored| STANDARD.encode(format!("/registry/{}", stored.key));
    let absent = |stored: &Stored| json!({"key": key(stored), "target": "VERSION", "version": 0});
    let put = |stored: &Stored| {
        let value = STANDARD.encode(stored.object.to_string());
        json!({"requestPut": {"key": key(stored), "value": value}})
    };
    json!({
        "compare": objects.iter().map(absent).collect::<Vec<_>>(),
        "success": objects.iter().map(put).collect::<Vec<_>>(),
    })
}

fn names(objects: &[Stored]) -> String {
    let ends = [objects.first(), objects.last()].into_iter().flatten();
    ends.map(|stored| stored.key.as_str()).collect::<Vec<_>>().join(" to ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(n: u32) -> Stored {
        Stored { key: format!("things/{n}"), object: json!({"n": n}) }
    }

    #[test]
    fn an_answer_without_all_objects_is_an_error() {
        let objects = [stored(1), stored(2)];
        let put = json!({"response_put": {}});
        let check = |answer: Value| check(&answer.to_string(), &objects);
        assert!(check(json!({"succeeded": true, "responses": [put, put]})).is_ok());
        assert!(check(json!({"succeeded": true, "responses": [put]})).is_err());
        assert!(check(json!({"succeeded": true})).is_err());
        let refused = check(json!({"message": "too many operations"})).err();
        let text = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            text.contains("things/1 to things/2") && text.contains("too many operations"),
            "{text}"
        );
    }

    #[test]
    fn a_transaction_writes_every_object_if_no_key_exists() {
        let body = transaction(&[stored(1), stored(2)]);
        let decoded = |value: &Value| {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        for (at, n) in [(0, 1), (1, 2)] {
            let put = &body["success"][at]["requestPut"];
            let key = format!("/registry/things/{n}");
            assert_eq!(decoded(&put["key"]), key);
            assert_eq!(decoded(&put["value"]), format!(r#"{{"n":{n}}}"#));
            assert_eq!(decoded(&body["compare"][at]["key"]), key);
            assert_eq!(body["compare"][at]["version"], 0);
        }
    }
}
