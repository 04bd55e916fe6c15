//! The most that a call of a function can cost, whatever path it takes: from the object file.
//!
//! Each instruction has a cost, and each call that of the longest path through the function that it calls. A
//! path that no packet takes counts too, so the result is a bound.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytecode::{Instruction, LOAD_ADDRESS, MOVE};
use crate::control_flow::Graph;

/// The helpers that search a map: look-up, update, delete.
const SEARCHES: [i32; 3] = [1, 2, 3];
/// The register with the map.
const MAP: u8 = 1;

/// What has a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A search in a map.
    Search(&'a str),
    /// A call of a function of the program.
    Call(&'a str),
}

/// The sum on the path of a function with the highest one.
///
/// # Panics
/// When the function does not exist, when a cycle has a cost, or when the map of a search is unknown.
pub fn highest(
    functions: &BTreeMap<String, Vec<Instruction>>,
    name: &str,
    cost: &impl Fn(Step<'_>) -> u32,
) -> u32 {
    let code = functions.get(name).unwrap_or_else(|| panic!("no function {name}"));
    let graph = Graph::of(code);
    let cost_of = |at: usize| match (code[at].callee(), code[at].helper()) {
        (Some(callee), _) => cost(Step::Call(callee)) + highest(functions, callee, cost),
        (_, Some(helper)) if SEARCHES.contains(&helper) => {
            cost(Step::Search(map(name, code, &graph, at)))
        }
        _ => 0,
    };
    // Of the path from an instruction on.
    let mut sums = vec![0; code.len()];
    for component in graph.components() {
        let own: u32 = component.iter().map(|at| cost_of(*at)).sum();
        let is_bound = own == 0 || !graph.is_cycle(component);
        assert!(is_bound, "{name}: a cycle has a cost: instructions {component:?}");
        let following = component.iter().flat_map(|at| graph.next(*at));
        let rest = following.map(|at| sums[*at]).max().unwrap_or_default();
        component.iter().for_each(|at| sums[*at] = own + rest);
    }
    sums[0]
}

/// Where the value of a register comes from.
enum Origin<'a> {
    /// The register had it before.
    Same,
    Register(u8),
    Map(&'a str),
    Unknown,
}

/// The origin of a register's value after an instruction.
fn origin(instruction: &Instruction, register: u8) -> Origin<'_> {
    let Instruction { code, dst, src, immediate, .. } = *instruction;
    // Addition and others that return the old value: in the source, or in register 0.
    let is_atomic = matches!(code, 0xc3 | 0xdb) && immediate & 1 != 0;
    match code & 7 {
        // A call changes the registers of its arguments and result.
        5 if code & 0xf0 == 0x80 && register <= 5 => Origin::Unknown,
        3 if is_atomic && (register == src || register == 0) => Origin::Unknown,
        // A store or a jump.
        2 | 3 | 5 | 6 => Origin::Same,
        _ if dst != register => Origin::Same,
        _ if code == MOVE => Origin::Register(src),
        _ => match &instruction.symbol {
            Some(map) if code == LOAD_ADDRESS => Origin::Map(map),
            _ => Origin::Unknown,
        },
    }
}

/// The map that the call of a helper searches, whichever path leads to it.
fn map<'a>(name: &str, code: &'a [Instruction], graph: &Graph, call: usize) -> &'a str {
    let mut maps = BTreeSet::new();
    // Instructions, and registers whose values before them are searched for.
    let mut open = vec![(call, MAP)];
    let mut seen = BTreeSet::new();
    while let Some((at, register)) = open.pop() {
        if !seen.insert((at, register)) {
            continue;
        }
        assert!(at > 0, "{name}, instruction {call}: the map is an argument");
        for &before in graph.previous(at) {
            match origin(&code[before], register) {
                Origin::Same => open.push((before, register)),
                Origin::Register(other) => open.push((before, other)),
                Origin::Map(map) => _ = maps.insert(map),
                Origin::Unknown => {
                    panic!("{name}, instruction {call}: the map is not known at {before}")
                }
            }
        }
    }
    assert!(maps.len() == 1, "{name}, instruction {call}: a search in any of {maps:?}");
    maps.first().expect("one map")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Instruction = of(0x95, 0, 0);

    const fn of(code: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, dst: 0, src: 0, offset, immediate, symbol: None }
    }

    /// Loads the address of a map and searches it.
    fn search(map: &str) -> Vec<Instruction> {
        let load = Instruction { dst: MAP, symbol: Some(map.to_owned()), ..of(LOAD_ADDRESS, 0, 0) };
        vec![load, of(0, 0, 0), of(0x85, 0, 1)]
    }

    fn call(function: &str) -> Instruction {
        Instruction { src: 1, symbol: Some(function.to_owned()), ..of(0x85, 0, -1) }
    }

    fn searches(parts: &[&[Instruction]], cost: impl Fn(&str) -> u32) -> u32 {
        let callee = [search("A"), search("B"), vec![EXIT]].concat();
        let functions =
            BTreeMap::from([("f".to_owned(), parts.concat()), ("callee".to_owned(), callee)]);
        let cost = |step: Step<'_>| match step {
            Step::Search(map) => cost(map),
            Step::Call(_) => 0,
        };
        highest(&functions, "f", &cost)
    }

    #[test]
    fn branch_with_more_searches_counts_and_calls_have_those_of_their_function() {
        // If equal, past the search and the jump over the call.
        let branch = [of(0x15, 4, 0)];
        let over_the_call = [of(0x05, 1, 0)];
        let a = search("A");
        let parts: [&[Instruction]; 6] =
            [&a, &branch, &a, &over_the_call, &[call("callee")], &[EXIT]];
        assert_eq!(searches(&parts, |_| 1), 3);
        assert_eq!(searches(&parts, |map| u32::from(map == "A")), 2);
        assert_eq!(searches(&parts, |map| u32::from(map == "B")), 1);
    }

    #[test]
    fn map_is_followed_to_another_register() {
        let moved = Instruction { dst: MAP, src: 6, ..of(MOVE, 0, 0) };
        let mut a = search("A");
        a[0].dst = 6;
        a.insert(2, moved);
        assert_eq!(searches(&[&search("B"), &a, &[EXIT]], |map| u32::from(map == "A")), 1);
    }

    #[test]
    fn loop_without_searches_is_followed_once() {
        let back = [of(0x15, -1, 0)];
        assert_eq!(searches(&[&search("A"), &back, &[EXIT]], |_| 1), 1);
    }

    #[test]
    #[should_panic(expected = "f: a cycle has a cost")]
    fn loop_with_searches_has_no_bound() {
        let back = [of(0x15, -4, 0)];
        searches(&[&search("A"), &back, &[EXIT]], |_| 1);
    }

    #[test]
    #[should_panic(expected = "f: a cycle has a cost")]
    fn loop_whose_searches_are_out_of_line_has_no_bound() {
        // The jump back, behind the exit, has no search between itself and its target.
        let head = [of(0x15, 2, 0), EXIT, of(0x05, -3, 0)];
        let back = [of(0x05, -5, 0)];
        searches(&[&head, &search("A"), &back], |_| 1);
    }

    #[test]
    fn searches_before_and_behind_a_loop_of_several_blocks_count() {
        // Entered in the middle.
        let cycle = [of(0x15, 1, 0), of(0, 0, 0), of(0x15, 1, 0), of(0x05, -3, 0)];
        assert_eq!(searches(&[&search("A"), &cycle, &search("B"), &[EXIT]], |_| 1), 2);
    }

    /// Loads the address of a map for a call elsewhere.
    fn load(map: &str) -> Vec<Instruction> {
        search(map)[..2].to_vec()
    }

    const SEARCH: [Instruction; 1] = [of(0x85, 0, 1)];

    #[test]
    fn call_of_two_branches_with_one_map_searches_it() {
        let branch = [of(0x15, 3, 0)];
        let over = [of(0x05, 2, 0)];
        let parts: [&[Instruction]; 6] = [&branch, &load("A"), &over, &load("A"), &SEARCH, &[EXIT]];
        assert_eq!(searches(&parts, |map| u32::from(map == "A")), 1);
    }

    #[test]
    #[should_panic(expected = r#"f, instruction 6: a search in any of {"A", "B"}"#)]
    fn call_of_two_branches_with_different_maps_has_no_known_map() {
        let branch = [of(0x15, 3, 0)];
        let over = [of(0x05, 2, 0)];
        searches(&[&branch, &load("A"), &over, &load("B"), &SEARCH, &[EXIT]], |_| 1);
    }

    #[test]
    fn map_of_a_call_out_of_line_is_the_one_on_its_path() {
        // The load precedes the call in time only, and B is loaded on a path that ends.
        let head = [of(0x15, 5, 0)];
        let parts: [&[Instruction]; 7] =
            [&head, &load("B"), &[EXIT], &SEARCH, &[EXIT], &load("A"), &[of(0x05, -5, 0)]];
        assert_eq!(searches(&parts, |map| u32::from(map == "A")), 1);
        assert_eq!(searches(&parts, |map| u32::from(map == "B")), 0);
    }

    #[test]
    #[should_panic(expected = "f, instruction 3: the map is not known at 2")]
    fn call_changes_the_register_of_a_map() {
        searches(&[&search("A"), &SEARCH, &[EXIT]], |_| 1);
    }

    #[test]
    #[should_panic(expected = "f, instruction 0: the map is an argument")]
    fn map_is_not_an_argument() {
        searches(&[&SEARCH, &[EXIT]], |_| 1);
    }
}
