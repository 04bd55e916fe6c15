//! Replays the corpus, and runs random changes of it.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fuzz_tests::mutation::{self, Mutator, SEED_VARIABLE};
use fuzz_tests::{TARGETS, Target, corpus};

const MUTATIONS: usize = 2_000;

/// Limit for one input, far above what the slowest takes on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Runs one input; `Err` if the property does not hold.
fn run(target: &Target, input: &[u8]) -> Result<(), &'static str> {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    match result {
        Err(_) => Err("panicked, see above"),
        Ok(()) if start.elapsed() > TIME_LIMIT => Err("took too long"),
        Ok(()) => Ok(()),
    }
}

#[test]
fn corpus_has_a_folder_with_at_least_three_entries_for_each_target() {
    let folders: BTreeSet<String> = fs::read_dir(corpus::folder())
        .expect("the corpus exists")
        .map(|entry| entry.expect("a folder").file_name().to_string_lossy().into_owned())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, names);
    for target in TARGETS {
        let count = corpus::entries(target.name).expect("the corpus is readable").len();
        assert!(count >= 3, "{}: {count}", target.name);
    }
}

#[test]
fn every_corpus_entry_holds_the_property_of_its_target() {
    let mut failed = Vec::new();
    for target in TARGETS {
        for entry in corpus::entries(target.name).expect("the corpus is readable") {
            if let Err(reason) = run(&target, &entry.bytes) {
                failed.push(format!("{}: {reason}", entry.path.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn random_changes_of_corpus_entries_hold_the_property_of_their_target() {
    let seed = mutation::seed();
    println!("{SEED_VARIABLE}={seed}");
    for target in TARGETS {
        let entries = corpus::entries(target.name).expect("the corpus is readable");
        let inputs: Vec<&[u8]> = entries.iter().map(|entry| entry.bytes.as_slice()).collect();
        let mut mutator = Mutator::new(seed);
        for number in 0..MUTATIONS {
            let input = mutator.input(&inputs);
            if let Err(reason) = run(&target, &input) {
                panic!(
                    "{} with {SEED_VARIABLE}={seed}, input {number}: {reason}\n\"{}\"",
                    target.name,
                    input.escape_ascii()
                );
            }
        }
    }
}
