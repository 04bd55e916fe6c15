//! Creates many objects of a cluster, with several kubectl processes at a time.

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::attempts;
use super::cluster::BenchCluster;
use crate::cache::target;
use crate::progress::{self, Reporter};

/// Numbers whose objects one kubectl creates.
const CHUNK: usize = 100;
/// kubectl processes at a time.
const WORKERS: usize = 4;
/// How often a progress line is due.
const POLL: Duration = Duration::from_millis(500);

/// Creates the objects of these numbers; returns the time in seconds.
///
/// # Errors
/// When kubectl fails.
pub fn create(
    cluster: &BenchCluster,
    name: &str,
    numbers: Range<usize>,
    objects: impl Fn(usize) -> Vec<Value> + Sync,
) -> Result<f64> {
    let chunks = chunks(numbers.clone());
    let start = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (sender, results) = mpsc::channel();
    let mut reporter = Reporter::new(name);
    thread::scope(|scope| {
        for worker in 0..WORKERS.min(chunks.len()) {
            let (sender, chunks, objects) = (sender.clone(), &chunks, &objects);
            let (next, done) = (&next, &done);
            scope.spawn(move || {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let items = chunk.clone().flat_map(objects).collect();
                    let result = create_chunk(cluster, worker, items);
                    done.fetch_add(chunk.len(), Ordering::Relaxed);
                    let failed = result.is_err();
                    let _ = sender.send(result);
                    if failed {
                        // The other workers end too.
                        next.store(chunks.len(), Ordering::Relaxed);
                    }
                }
            });
        }
        drop(sender);
        loop {
            match results.recv_timeout(POLL) {
                Ok(result) => result?,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            reporter.report(|| format!("{} of {}", done.load(Ordering::Relaxed), numbers.len()));
        }
    })
    .map_err(|error: anyhow::Error| error.context(name.to_owned()))?;
    let took = start.elapsed();
    let rate = numbers.len() as f64 / took.as_secs_f64();
    progress::line(name, &format!("created, {rate:.0}/s"), took);
    Ok(took.as_secs_f64())
}

/// Parts of at most [`CHUNK`] numbers.
fn chunks(numbers: Range<usize>) -> Vec<Range<usize>> {
    let end = numbers.end;
    numbers.step_by(CHUNK).map(|first| first..(first + CHUNK).min(end)).collect()
}

fn create_chunk(cluster: &BenchCluster, worker: usize, items: Vec<Value>) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("fill-{:?}-{worker}.json", cluster.network));
    fs::write(&file, serde_json::to_vec(&list)?)?;
    attempts(
        || match cluster.create(&file) {
            Err(error) if !only_existing(&error.to_string()) => Err(error),
            _ => Ok(()),
        },
        || Ok(()),
    )?;
    fs::remove_file(file)?;
    Ok(())
}

/// Whether all errors of kubectl are about objects that exist: after a broken connection, another
/// attempt finds those of the first.
fn only_existing(error: &str) -> bool {
    let mut errors = error.lines().filter(|line| line.contains("Error from server")).peekable();
    errors.peek().is_some() && errors.all(|line| line.contains("(AlreadyExists)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_existing_objects_are_told_from_others() {
        let exists = "kubectl create: Error from server (AlreadyExists): error when creating \"f\"";
        assert!(only_existing(&format!("{exists}\n{exists}")));
        assert!(!only_existing(&format!("{exists}\nError from server (Forbidden): no")));
        assert!(!only_existing("error: http2: client connection lost"));
    }

    #[test]
    fn chunks_are_all_numbers_once() {
        assert_eq!(chunks(1..1), []);
        assert_eq!(chunks(1..250), [1..101, 101..201, 201..250]);
    }
}
