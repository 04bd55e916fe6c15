//! Stack usage of the programs, from their object file.
//!
//! The kernel limits the frames of a call chain to 512 bytes together (`MAX_BPF_STACK` in
//! include/linux/filter.h). Kernels before 6.8 round each frame up to 32 bytes, later ones to 16,
//! so that a program can fit one kernel and not another.

use std::collections::BTreeMap;

use crate::bytecode::{self, Instruction, MOVE};

/// Bytes that the frames of a call chain may have together.
pub const LIMIT: u32 = 512;
/// Functions of a call chain (`MAX_CALL_FRAMES`).
pub const DEPTH: usize = 8;
/// Kernels before 6.8 round each frame up to a multiple of this.
const GRANULARITY: u32 = 32;

/// `BPF_ALU64 | BPF_ADD | BPF_K`.
const ADD: u8 = 0x07;
/// The frame pointer.
const FRAME: u8 = 10;

/// A chain of calls: the functions with the size of their frames, and the sum as the kernel counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Name and frame of each function.
    pub functions: Vec<(String, u32)>,
    /// Sum of the rounded frames.
    pub bytes: u32,
}

struct Function {
    frame: u32,
    callees: Vec<String>,
}

/// The chain with the largest sum that starts in each function that no other one calls.
///
/// # Panics
/// If the bytes are not an object file with symbols.
pub fn deepest_chains(bytes: &[u8]) -> Vec<Chain> {
    let functions = functions(bytes);
    let is_called = |name: &String| functions.values().any(|f| f.callees.contains(name));
    functions.keys().filter(|name| !is_called(name)).map(|name| deepest(&functions, name)).collect()
}

fn deepest(functions: &BTreeMap<String, Function>, name: &str) -> Chain {
    let function = functions.get(name).unwrap_or_else(|| panic!("{name} is not in the object"));
    let below = function
        .callees
        .iter()
        .map(|callee| deepest(functions, callee))
        .max_by_key(|chain| chain.bytes)
        .unwrap_or_default();
    let mut chain = vec![(name.to_owned(), function.frame)];
    chain.extend(below.functions);
    // The verifier counts a function without a frame as one byte.
    let bytes = function.frame.max(1).next_multiple_of(GRANULARITY) + below.bytes;
    Chain { functions: chain, bytes }
}

fn functions(bytes: &[u8]) -> BTreeMap<String, Function> {
    let functions = bytecode::functions(bytes).into_iter().map(|(name, code)| {
        let callees = code.iter().filter_map(|i| i.callee().map(str::to_owned)).collect();
        (name, Function { frame: frame(&code), callees })
    });
    functions.collect()
}

/// The lowest offset from the frame pointer that a function uses: in a load or store, or as an
/// address.
fn frame(code: &[Instruction]) -> u32 {
    let mut lowest = 0i32;
    // Registers that have been copied from the frame pointer.
    let mut copies = [false; 11];
    for &Instruction { code, dst, src, offset, immediate, .. } in code {
        let offset = i32::from(offset);
        match (code & 7, code) {
            // Loads, and stores of an immediate and of a register.
            (1, _) if src == FRAME => lowest = lowest.min(offset),
            (2 | 3, _) if dst == FRAME => lowest = lowest.min(offset),
            (_, MOVE) => copies[usize::from(dst)] = src == FRAME,
            (_, ADD) if copies[usize::from(dst)] => {
                lowest = lowest.min(immediate);
                copies[usize::from(dst)] = false;
            }
            _ => {}
        }
    }
    lowest.unsigned_abs()
}
