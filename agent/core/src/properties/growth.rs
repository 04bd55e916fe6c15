//! Maps that grow: after each step, larger maps hold every row.

use proptest::prelude::*;

use super::context;
use super::kernel::{Kernel, rows};
use super::plans::{Agent, CAPACITY, assert_realized, begin, steps};
use crate::diff::{Capacity, Plan, RealizedState};
use crate::generate;
use crate::tables::{Changed, Tables};

/// Most replacements after one step. A second one is needed if the backends that two rows share were
/// counted once; each at least doubles a map.
const REPLACEMENTS: usize = 4;

fn carry_out(kernel: &mut Kernel, plan: &Plan) {
    begin(kernel, plan);
    rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
}

proptest! {
    #[test]
    fn maps_that_grow_as_plans_demand_hold_every_row(
        steps in steps(),
        (frontends, services, slots, backends) in (1..12u32, 1..6u32, 1..16u32, 1..8u32),
    ) {
        let first = Capacity { frontends, services, slots, backends, ..CAPACITY };
        let mut kernel = Kernel::new(first);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let mut plan = agent.apply_and_plan(&changes);
            carry_out(&mut kernel, &plan);
            let mut replacements = 0;
            while let Some(needed) = plan.needed {
                let larger = kernel.capacity.grown(&needed, &CAPACITY);
                let Some(larger) = larger else { panic!("{:?}: {plan:?}", kernel.capacity) };
                prop_assert!(larger.growing().zip(kernel.capacity.growing()).any(|(n, o)| n > o));
                kernel.replace_maps(larger);
                agent.realized.replace(kernel.read_back(), larger);
                plan = agent.apply_and_plan(&[]);
                carry_out(&mut kernel, &plan);
                replacements += 1;
                prop_assert!(replacements <= REPLACEMENTS);
            }
            prop_assert_eq!(&plan.over_capacity, &vec![]);
            assert_realized(&kernel, &agent.tables);
            // Rows that fit stay as they are.
            let larger = kernel.capacity.with(|growing| kernel.capacity.of(growing) + 1);
            kernel.replace_maps(larger);
            agent.realized.replace(kernel.read_back(), larger);
            prop_assert_eq!(agent.apply_and_plan(&[]).writes, vec![]);
        }
    }

    #[test]
    fn maps_of_the_estimated_size_hold_the_tables_at_once(objects in generate::objects()) {
        let tables = Tables::full(&super::index_of(&objects), &context());
        let mut kernel = Kernel::new(Capacity::for_tables(&tables));
        let mut realized = RealizedState::with_capacity(kernel.read_back(), kernel.capacity);
        let plan = realized.plan(&tables, &Changed::default());
        prop_assert_eq!((&plan.over_capacity, plan.needed), (&vec![], None));
        carry_out(&mut kernel, &plan);
        assert_realized(&kernel, &tables);
    }
}
