//! Connectivity: the tables in `tests/netns/cases/` against two nodes.
//!
//! One topology serves every cell; a failure lists all wrong cells. `README.md` of the level
//! explains the columns.

mod table;
mod testbed;

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{Host, scaled};
use table::{Case, Expected};
use testbed::Testbed;

/// Cells that run at a time; most of them wait.
const WORKERS: usize = 12;
/// Most cells whose result is late at first.
const LATE_MAX: usize = 3;
const LATE: &str = " only after ";

#[test]
fn every_cell_of_the_case_tables_holds() {
    let mut cases = table::read_all();
    cases.sort_by_key(|case| Reverse(case.expected.wait()));
    assert!(cases.len() > 300, "only {} cells", cases.len());
    let (testbed, _running) = Testbed::new();
    let next = AtomicUsize::new(0);
    let (wrong, late) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let address = testbed.target(&case.path, &case.target);
                    let mut result = check(&testbed, case, &address);
                    if let Err(found) = &result
                        && found.contains(LATE)
                    {
                        late.lock().unwrap().push(format!("{case}\n      is  {found}"));
                        result = check(&testbed, case, &address);
                    }
                    if let Err(found) = result {
                        wrong.lock().unwrap().push(format!("{case}\n      is  {found}"));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let count = wrong.len();
    assert_eq!(count, 0, "{count} of {} cells:\n{}", cases.len(), wrong.join("\n"));
    // A busy machine delays single cells. A first packet that is lost delays all cells of a kind, and only the
    // first time.
    let late = late.into_inner().unwrap();
    assert!(late.len() <= LATE_MAX, "late:\n{}", late.join("\n"));
}

fn check(testbed: &Testbed, case: &Case, address: &str) -> Result<(), String> {
    let host = testbed.client(&case.client);
    let host = if case.socket_programs { host.clone() } else { host.without_socket_programs() };
    if case.protocol == "icmp" {
        return check_echo(&host, case, address);
    }
    let start = Instant::now();
    let deadline = case.expected.deadline().as_millis().to_string();
    let exchange =
        host.connect_with(&case.protocol, address, &["--deadline-ms", &deadline]).remove(0);
    let took = start.elapsed();
    match (&case.expected, exchange) {
        (Expected::Response { server, source }, Ok((response, peer))) => {
            let observed = testbed.name_of(response.client.ip(), &case.client);
            if (&response.server, &observed) != (server, source) {
                return Err(format!("{} {observed} ({})", response.server, response.client));
            }
            if peer.to_string() != address {
                return Err(format!("a response from {peer} instead of {address}"));
            }
            Ok(())
        }
        (Expected::Failure { kind, within }, Err(error)) => {
            let found = table::failure_name(&error);
            if found != *kind {
                return Err(format!("{found} after {took:?}"));
            }
            // A time-out takes all of its deadline and the start of the client.
            if kind != "timeout" && took > scaled(*within) {
                return Err(format!("{found}{LATE}{took:?}"));
            }
            Ok(())
        }
        (_, Ok((response, peer))) => {
            let observed = testbed.name_of(response.client.ip(), &case.client);
            Err(format!("{} {observed}, peer {peer}", response.server))
        }
        (_, Err(error)) => Err(format!("{} after {took:?}", table::failure_name(&error))),
    }
}

fn check_echo(host: &Host, case: &Case, address: &str) -> Result<(), String> {
    let address = address.split(':').next().unwrap();
    // More than an MTU: the fragments have to arrive too.
    let deadline = case.expected.deadline();
    let results =
        [56, 4000].map(|size| table::echo_name(host.ping_within(address, size, deadline), size));
    let want = case.expected.echo();
    if results.iter().all(|result| *result == want) { Ok(()) } else { Err(results.join(" and ")) }
}

/// Deadline of a request that has a response.
const RESPONSE: Duration = Duration::from_secs(5);
