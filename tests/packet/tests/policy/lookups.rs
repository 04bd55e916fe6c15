//! What a verdict costs: look-ups in hashes and tries, counted in the code of the programs.

use packet_tests::bytecode;
use packet_tests::longest_path::{Step, highest};
use packet_tests::{Datapath, object};
use sluice_abi::{map, program};

/// Look-ups for a new flow between two pods of the node, at most.
const MOST: u32 = 8;

/// The function that judges a flow, and the one around it, which every program calls.
const JUDGE: &str = "policy_judge";
const JUDGE_FLOW: &str = "policy_judge_flow";

#[test]
fn a_new_flow_costs_at_most_eight_lookups() {
    let datapath = Datapath::load();
    let functions = bytecode::functions(&object());
    let of_map = |name: &str| u32::from(!datapath.is_array(name));
    let search = |step: Step<'_>| match step {
        Step::Search(name) => of_map(name),
        Step::Call(_) => 0,
    };
    assert_eq!(highest(&functions, JUDGE, &search), MOST);
    // Around it, only known flows and fragments cost more.
    let others = |name: &str| map::FLOW_TABLES.contains(&name) || name == "FRAGMENT_WAITS";
    let search = |step: Step<'_>| match step {
        Step::Search(name) if others(name) => 0,
        step => search(step),
    };
    assert_eq!(highest(&functions, JUDGE_FLOW, &search), MOST);
    // A packet is judged once.
    let judge = |step: Step<'_>| u32::from(step == Step::Call(JUDGE_FLOW));
    for name in program::TC.iter().chain(&[program::XDP_NETDEV]) {
        assert_eq!(highest(&functions, name, &judge), 1, "{name}");
    }
}
