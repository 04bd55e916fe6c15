//! The most that a call of a function can cost, whatever path it takes: from the object file.
//!
//! Each instruction has a cost, and each call that of the longest path through the function that it calls. A
//! path that no packet takes counts too, so the result is a bound.

use std::collections::BTreeMap;

use crate::bytecode::{Instruction, LOAD_ADDRESS, MOVE};

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
/// If there is no such function, if a loop has a cost, or if it is not known which map is searched.
pub fn highest(
    functions: &BTreeMap<String, Vec<Instruction>>,
    name: &str,
    cost: &impl Fn(Step<'_>) -> u32,
) -> u32 {
    let code = functions.get(name).unwrap_or_else(|| panic!("no function {name}"));
    let costs: Vec<u32> = (0..code.len())
        .map(|at| match (code[at].callee(), code[at].helper()) {
            (Some(callee), _) => cost(Step::Call(callee)) + highest(functions, callee, cost),
            (_, Some(helper)) if SEARCHES.contains(&helper) => cost(Step::Search(map(code, at))),
            _ => 0,
        })
        .collect();
    let mut known = vec![Known::No; code.len()];
    from(code, 0, &costs, &mut known)
}

/// What is known of the rest of the path at an instruction.
#[derive(Clone, Copy)]
enum Known {
    No,
    /// The path has come from it.
    OnPath,
    Highest(u32),
}

fn from(code: &[Instruction], at: usize, costs: &[u32], known: &mut [Known]) -> u32 {
    if let Known::Highest(sum) = known[at] {
        return sum;
    }
    known[at] = Known::OnPath;
    let mut rest = 0;
    for next in next(code, at) {
        if matches!(known[next], Known::OnPath) {
            let of_loop = &costs[next.min(at)..=next.max(at)];
            assert!(of_loop.iter().all(|cost| *cost == 0), "a loop has a cost");
        } else {
            rest = rest.max(from(code, next, costs, known));
        }
    }
    known[at] = Known::Highest(costs[at] + rest);
    costs[at] + rest
}

/// The instructions that can follow.
fn next(code: &[Instruction], at: usize) -> Vec<usize> {
    let Instruction { code: operation, offset, immediate, .. } = code[at];
    let jump = |by: i64| at.checked_add_signed(by as isize + 1).expect("within the function");
    let follows = at + 1;
    match (operation & 7, operation & 0xf0) {
        _ if operation == LOAD_ADDRESS => vec![at + 2],
        // Return.
        (5, 0x90) => Vec::new(),
        // Jump always, by the offset or a long one.
        (5, 0) => vec![jump(offset.into())],
        (6, 0) => vec![jump(immediate.into())],
        (5, 0x80) => vec![follows],
        (5 | 6, _) => vec![follows, jump(offset.into())],
        _ => vec![follows],
    }
}

/// The map that the call of a helper searches: the last one that was loaded into its register.
fn map(code: &[Instruction], at: usize) -> &str {
    let mut register = MAP;
    for instruction in code[..at].iter().rev() {
        let Instruction { code: operation, dst, src, .. } = *instruction;
        match &instruction.symbol {
            _ if dst != register => {}
            Some(map) if operation == LOAD_ADDRESS => return map,
            _ if operation == MOVE => register = src,
            // A store, a jump or a call: the register is not changed, or it is not a map.
            _ if matches!(operation & 7, 2 | 3 | 5 | 6) => {}
            _ => break,
        }
    }
    panic!("the map of a search is not known")
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
    #[should_panic(expected = "a loop has a cost")]
    fn loop_with_searches_has_no_bound() {
        let back = [of(0x15, -4, 0)];
        searches(&[&search("A"), &back, &[EXIT]], |_| 1);
    }
}
