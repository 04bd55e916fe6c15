//! The verifier as a gate: every program loads, within an instruction budget that leaves a margin
//! for older kernels.

use packet_tests::{Datapath, Options, skip};
use sluice_abi::program;

/// Verified instructions of one program. The kernel's limit is a million; older kernels prune less.
const BUDGET: u32 = 200_000;

#[test]
fn every_program_loads_within_its_instruction_budget() {
    let mut datapath = Datapath::load();
    datapath.load_socket_programs();
    datapath.load_xdp_program();
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
