//! Stack usage of the programs, from their object file.
//!
//! The kernel limits the frames of a call chain to 512 bytes together (`MAX_BPF_STACK` in
//! include/linux/filter.h). Kernels before 6.8 round each frame up to 32 bytes, later ones to 16,
//! so that a program can fit one kernel and not another.

use std::collections::{BTreeMap, HashMap};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// Bytes that the frames of a call chain may have together.
pub const LIMIT: u32 = 512;
/// Functions of a call chain (`MAX_CALL_FRAMES`).
pub const DEPTH: usize = 8;
/// Kernels before 6.8 round each frame up to a multiple of this.
const GRANULARITY: u32 = 32;

/// `BPF_JMP | BPF_CALL`, and `BPF_PSEUDO_CALL` as its source register: a call of a function of the
/// program, not of a helper.
const CALL: (u8, u8) = (0x85, 1);
/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const MOVE: u8 = 0xbf;
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
    let file = object::File::parse(bytes).expect("an object file");
    // Section and first byte of each function, to find the targets of calls.
    let mut starts: HashMap<(SectionIndex, u64), String> = HashMap::new();
    let symbols = || file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0);
    for symbol in symbols() {
        let section = symbol.section_index().expect("a function has a section");
        starts.insert((section, symbol.address()), symbol.name().unwrap().to_owned());
    }
    let mut functions = BTreeMap::new();
    for symbol in symbols() {
        let index = symbol.section_index().expect("a function has a section");
        let section = file.section_by_index(index).unwrap();
        let range = symbol.address()..symbol.address() + symbol.size();
        let code = &section.data().unwrap()[range.start as usize..range.end as usize];
        let targets: BTreeMap<u64, (SectionIndex, u64)> = section
            .relocations()
            .filter(|(at, _)| range.contains(at))
            .filter_map(|(at, relocation)| {
                let RelocationTarget::Symbol(target) = relocation.target() else { return None };
                let target = file.symbol_by_index(target).unwrap();
                target.section_index().map(|section| (at, (section, target.address())))
            })
            .collect();
        let mut callees = Vec::new();
        for (n, instruction) in (0u64..).zip(code.chunks_exact(8)) {
            if (instruction[0], instruction[1] >> 4) != CALL {
                continue;
            }
            let at = range.start + n * 8;
            let next = i64::from(immediate(instruction)) + 1;
            // A call of a symbol has its offset from the symbol, another one from itself.
            let (section, base) = match targets.get(&at) {
                Some(&(section, address)) => (section, address as i64),
                None => (index, at as i64),
            };
            let target = (base + next * 8) as u64;
            let callee = starts.get(&(section, target));
            callees.push(callee.unwrap_or_else(|| panic!("call of {target:#x}")).clone());
        }
        let name = symbol.name().unwrap().to_owned();
        functions.insert(name, Function { frame: frame(code), callees });
    }
    functions
}

/// The lowest offset from the frame pointer that a function uses: in a load or store, or as an
/// address.
fn frame(code: &[u8]) -> u32 {
    let mut lowest = 0i32;
    // Registers that have been copied from the frame pointer.
    let mut copies = [false; 11];
    for instruction in code.chunks_exact(8) {
        let (class, dst, src) = (instruction[0] & 7, instruction[1] & 15, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        match (class, instruction[0]) {
            // Loads, and stores of an immediate and of a register.
            (1, _) if src == FRAME => lowest = lowest.min(offset),
            (2 | 3, _) if dst == FRAME => lowest = lowest.min(offset),
            (_, MOVE) => copies[usize::from(dst)] = src == FRAME,
            (_, ADD) if copies[usize::from(dst)] => {
                lowest = lowest.min(immediate(instruction));
                copies[usize::from(dst)] = false;
            }
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

fn immediate(instruction: &[u8]) -> i32 {
    i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]])
}
