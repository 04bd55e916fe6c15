//! The verifier as a gate: every program loads, within a budget that leaves room on older kernels.

use packet_tests::Kernel;
use sluice_abi::program;

/// Verified instructions that a program may take. The kernel's limit is a million; older ones
/// prune less well.
const BUDGET: u32 = 200_000;

#[test]
fn every_program_loads_within_its_budget() {
    let kernel = Kernel::empty();
    for name in program::TC.iter().chain(&program::SOCKET) {
        let (verified, bytes) = kernel.size(name);
        println!("{name:14} {verified:>6} verified instructions, {bytes:>6} bytes");
        assert!(verified < BUDGET, "{name} takes {verified}");
    }
}

#[test]
fn what_a_kernel_lacks_is_cut_off_at_load() {
    let (with, without) = (Kernel::with_set_retval(true), Kernel::with_set_retval(false));
    // The translated program holds only what the verifier found reachable.
    assert!(without.size("connect4").1 < with.size("connect4").1);
}
