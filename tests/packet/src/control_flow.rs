//! The control-flow graph of a function: a node for each instruction that it can reach.

use crate::bytecode::{Instruction, LOAD_ADDRESS};

/// The graph of a function.
pub struct Graph {
    next: Vec<Vec<usize>>,
    previous: Vec<Vec<usize>>,
    components: Vec<Vec<usize>>,
}

impl Graph {
    /// The graph of a function that begins with its first instruction.
    ///
    /// # Panics
    /// If a jump leads out of the function.
    pub fn of(code: &[Instruction]) -> Graph {
        let next: Vec<Vec<usize>> = (0..code.len()).map(|at| successors(code, at)).collect();
        let finished = in_order_of_end(&next);
        let mut previous = vec![Vec::new(); code.len()];
        for &at in &finished {
            next[at].iter().for_each(|&to| previous[to].push(at));
        }
        let components = components(&finished, &previous);
        Graph { next, previous, components }
    }

    /// The instructions that can follow one.
    pub fn next(&self, at: usize) -> &[usize] {
        &self.next[at]
    }

    /// The instructions that one can follow.
    pub fn previous(&self, at: usize) -> &[usize] {
        &self.previous[at]
    }

    /// The strongly connected components: instructions that lead to each other, or a single one. Each is behind all
    /// others that it leads to.
    pub fn components(&self) -> &[Vec<usize>] {
        &self.components
    }

    /// Whether a component is a cycle.
    pub fn is_cycle(&self, component: &[usize]) -> bool {
        component.len() > 1 || component.iter().any(|at| self.next(*at).contains(at))
    }
}

/// The instructions that can follow.
fn successors(code: &[Instruction], at: usize) -> Vec<usize> {
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

/// The nodes that the first one reaches, in the order in which a depth-first search leaves them.
fn in_order_of_end(next: &[Vec<usize>]) -> Vec<usize> {
    let mut is_seen = vec![false; next.len()];
    let mut finished = Vec::new();
    // With the number of edges that were followed.
    let mut path = vec![(0, 0)];
    is_seen[0] = true;
    while let Some((at, followed)) = path.last_mut() {
        let Some(&to) = next[*at].get(*followed) else {
            finished.push(*at);
            path.pop();
            continue;
        };
        *followed += 1;
        if !is_seen[to] {
            is_seen[to] = true;
            path.push((to, 0));
        }
    }
    finished
}

/// Kosaraju's algorithm: a search against the edges, from the nodes that were left last, stays in a component.
fn components(finished: &[usize], previous: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut is_placed = vec![false; previous.len()];
    let mut components = Vec::new();
    for &root in finished.iter().rev() {
        let mut component = Vec::new();
        let mut open = vec![root];
        while let Some(at) = open.pop() {
            if !is_placed[at] {
                is_placed[at] = true;
                component.push(at);
                open.extend(&previous[at]);
            }
        }
        if !component.is_empty() {
            components.push(component);
        }
    }
    components.reverse();
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Instruction = jump(0xb7, 0);
    const EXIT: Instruction = jump(0x95, 0);

    const fn jump(code: u8, offset: i16) -> Instruction {
        Instruction { code, dst: 0, src: 0, offset, immediate: 0, symbol: None }
    }

    fn sorted(graph: &Graph) -> Vec<Vec<usize>> {
        let sorted = |component: &Vec<usize>| {
            let mut component = component.clone();
            component.sort_unstable();
            component
        };
        graph.components().iter().map(sorted).collect()
    }

    #[test]
    fn branches_are_followed_and_what_cannot_be_reached_is_left_out() {
        let graph = Graph::of(&[jump(0x15, 2), NOTHING, jump(0x05, 1), EXIT, EXIT]);
        assert_eq!([graph.next(0), graph.next(2)], [&[1, 3][..], &[4]]);
        assert_eq!([graph.previous(3), graph.previous(4)], [&[0], &[2]]);
        let graph = Graph::of(&[jump(0x05, 1), NOTHING, EXIT]);
        assert_eq!((sorted(&graph), graph.previous(2)), (vec![vec![2], vec![0]], &[0][..]));
    }

    #[test]
    fn instructions_of_a_cycle_are_one_component_behind_those_that_it_leads_to() {
        // Two entries, and a part out of line.
        let code = [
            jump(0x15, 2),
            NOTHING,
            jump(0x05, 3),
            jump(0x15, 1),
            jump(0x05, 1),
            EXIT,
            jump(0x05, -4),
        ];
        let graph = Graph::of(&code);
        let components = sorted(&graph);
        assert!(components.contains(&vec![3, 4, 6]), "{components:?}");
        let cycles: Vec<_> = components.iter().filter(|one| graph.is_cycle(one)).collect();
        assert_eq!(cycles, [&[3, 4, 6]]);
        let place = |at| components.iter().position(|one| one.contains(&at)).unwrap();
        assert!(place(5) < place(3) && place(3) < place(2) && place(2) < place(0));
        assert!(Graph::of(&[jump(0x15, -1), EXIT]).is_cycle(&[0]));
    }
}
