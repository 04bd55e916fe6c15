//! The verifier as a gate: every program loads, within an instruction budget that leaves a margin
//! for older kernels.

use packet_tests::{Datapath, Options, object, skip, stack};
use sluice_abi::program;

/// Verified instructions of one program. The kernel's limit is a million; older kernels prune less.
const BUDGET: u32 = 200_000;

#[test]
fn every_program_loads_within_its_instruction_budget() {
    let mut datapath = Datapath::load();
    datapath.load_socket_programs();
    datapath.use_xdp();
    let mut unreported = Vec::new();
    for name in program::TC.iter().chain(&program::SOCKET).chain(&[program::XDP_NETDEV]) {
        let (verified, bytes) = datapath.size(name);
        assert!(bytes > 0, "{name}");
        let Some(verified) = verified else {
            unreported.push(*name);
            continue;
        };
        println!("{name:14} {verified:>6} verified instructions, {bytes:>6} bytes");
        assert!(verified < BUDGET, "{name} takes {verified}");
    }
    if !unreported.is_empty() {
        skip(&format!("this kernel reports no verified instructions of {unreported:?}"));
    }
}

/// The kernel that runs the tests counts less than older ones do, see [`stack`].
#[test]
fn call_chains_fit_the_stack_of_older_kernels() {
    let chains = stack::deepest_chains(&object());
    for name in program::TC.iter().chain(&program::SOCKET).chain(&[program::XDP_NETDEV]) {
        let chain = chains.iter().find(|chain| chain.functions[0].0 == *name);
        let chain = chain.unwrap_or_else(|| panic!("no function {name}"));
        println!("{name:14} {:>3} bytes of stack", chain.bytes);
        assert!(chain.bytes <= stack::LIMIT, "{chain:?}");
        assert!(chain.functions.len() <= stack::DEPTH, "{chain:?}");
    }
    // A chain is followed: `from_pod` calls functions that call others.
    let from_pod = chains.iter().find(|chain| chain.functions[0].0 == program::FROM_POD).unwrap();
    assert!(from_pod.functions.len() > 2 && from_pod.bytes > 256, "{from_pod:?}");
}

/// The map of aya-log exists in debug builds only.
#[test]
fn programs_do_not_log() {
    assert!(!Datapath::load().has_map("AYA_LOGS"));
}

#[test]
fn code_for_helpers_that_the_kernel_lacks_is_removed_at_load() {
    let size = |set_retval| {
        let mut datapath = Datapath::load_with(Options { set_retval, ..Options::default() });
        datapath.load_socket_programs();
        datapath.size("connect4").1
    };
    // The translated program has only the instructions that the verifier found reachable.
    assert!(size(false) < size(true));
}
