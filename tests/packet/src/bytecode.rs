//! The functions in the object file of the programs, instruction by instruction.

use std::collections::{BTreeMap, HashMap};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// `BPF_ALU64 | BPF_MOV | BPF_X`.
pub const MOVE: u8 = 0xbf;
/// `BPF_LD | BPF_DW | BPF_IMM`, which takes two instructions.
pub const LOAD_ADDRESS: u8 = 0x18;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// Source register of a call of a function of the program (`BPF_PSEUDO_CALL`); of a helper: 0.
const PSEUDO_CALL: u8 = 1;

/// An instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// Operation; 0: the second half of [`LOAD_ADDRESS`].
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Offset in instructions or bytes.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
    /// The function that it calls, or the map whose address it loads.
    pub symbol: Option<String>,
}

impl Instruction {
    /// The function of the program that it calls.
    pub fn callee(&self) -> Option<&str> {
        self.symbol.as_deref().filter(|_| self.code == CALL)
    }

    /// The number of the helper that it calls.
    pub fn helper(&self) -> Option<i32> {
        (self.code == CALL && self.src != PSEUDO_CALL).then_some(self.immediate)
    }
}

/// All functions by name.
///
/// # Panics
/// If the bytes are not an object file with symbols.
pub fn functions(bytes: &[u8]) -> BTreeMap<String, Vec<Instruction>> {
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
        let bytes = &section.data().unwrap()[range.start as usize..range.end as usize];
        let targets: BTreeMap<u64, _> = section
            .relocations()
            .filter(|(at, _)| range.contains(at))
            .filter_map(|(at, relocation)| {
                let RelocationTarget::Symbol(target) = relocation.target() else { return None };
                Some((at, file.symbol_by_index(target).unwrap()))
            })
            .collect();
        let mut code = Vec::with_capacity(bytes.len() / 8);
        for (n, bytes) in (0u64..).zip(bytes.chunks_exact(8)) {
            let mut instruction = Instruction::of(bytes);
            let at = range.start + n * 8;
            let target = targets.get(&at);
            if instruction.code == LOAD_ADDRESS {
                instruction.symbol = target.and_then(|t| t.name().ok()).map(str::to_owned);
            } else if instruction.code == CALL && instruction.src == PSEUDO_CALL {
                let next = i64::from(instruction.immediate) + 1;
                // A call of a symbol has its offset from the symbol, another one from itself.
                let found = target.and_then(|t| Some((t.section_index()?, t.address())));
                let (section, base) = found.unwrap_or((index, at));
                let target = base.wrapping_add_signed(next * 8);
                let callee = starts.get(&(section, target));
                let callee = callee.unwrap_or_else(|| panic!("call of {target:#x}"));
                instruction.symbol = Some(callee.clone());
            }
            code.push(instruction);
        }
        functions.insert(symbol.name().unwrap().to_owned(), code);
    }
    functions
}

impl Instruction {
    fn of(bytes: &[u8]) -> Instruction {
        Instruction {
            code: bytes[0],
            dst: bytes[1] & 15,
            src: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            symbol: None,
        }
    }
}
